"""The decode command from end to end, with a small model."""

import ast
import json

import pytest

from tests.bin.small_recognizer import CAUSAL, CONFORMER, save_recognizer
from toolkit.bin import decode, score
from toolkit.data.manifests import mono_cut, open_cuts, write_cuts
from toolkit.data.synthetic import synthetic_cuts
from toolkit.errors import UserError


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a model, four cuts and their files, and a fifth cut without a file."""
    folder = tmp_path_factory.mktemp("decode")
    save_recognizer(folder / "model", CONFORMER)
    cuts = list(synthetic_cuts(4, folder=folder))
    write_cuts(folder / "cuts.jsonl.gz", [*cuts, mono_cut("lost", folder / "lost.flac", 16000, text="sun")])
    return folder


def run(place, *arguments):
    decode.main(["--model", f"{place}/model", "--device", "cpu", *map(str, arguments)])


def lines(path):
    return [line.split() for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def decoded(place):
    run(place, "--cuts", place / "cuts.jsonl.gz", "--out", place / "out")
    return place / "out"


def test_a_manifest_gives_text_and_times(place, decoded, capsys):
    cuts = list(open_cuts(place / "cuts.jsonl.gz"))[:4]
    assert {path.name for path in decoded.iterdir()} == {
        *("text", "words.ctm", "tokens.ctm", "skipped.jsonl", "recogs.txt", "errs.txt", "wer-summary.txt")
    }
    text = lines(decoded / "text")
    assert [row[0] for row in text] == [cut.id for cut in cuts]
    words = lines(decoded / "words.ctm")
    for row, cut in zip(text, cuts, strict=True):
        own = [line for line in words if line[0] == cut.id]
        assert [line[4] for line in own] == row[1:] != []
        for _, channel, start, duration, _, confidence in own:
            assert channel == "1" and 0 < float(confidence) <= 1
            assert 0 <= float(start) and float(start) + float(duration) <= cut.duration + 0.05
    assert len(lines(decoded / "tokens.ctm")) > len(words)
    (skipped,) = map(json.loads, (decoded / "skipped.jsonl").read_text().splitlines())
    assert skipped == {"id": "lost", "path": str(place / "lost.flac"), "reason": "missing: no such file"}


def test_audio_files_give_the_same_text(place, decoded, capsys):
    files = sorted((place / "audio").glob("*.flac"))
    run(place, *files, place / "lost.flac")
    output = capsys.readouterr()
    assert [line.split() for line in output.out.splitlines()] == lines(decoded / "text")
    assert output.err == f"skipped {place / 'lost.flac'}: missing: no such file\n"


def test_errors_are_listed_where_transcripts_are_known(place, decoded):
    text = dict((row[0], row[1:]) for row in lines(decoded / "text"))
    recogs = (decoded / "recogs.txt").read_text().splitlines()
    hypotheses = dict(line.split(":\thyp=") for line in recogs[1::2])
    assert {name: ast.literal_eval(words) for name, words in hypotheses.items()} == text
    rate = (decoded / "errs.txt").read_text().splitlines()[0].removeprefix("%WER = ")
    assert lines(decoded / "wer-summary.txt") == [["settings", "WER"], ["ctc_greedy", rate]]


def test_several_searches_have_a_folder_each(place, decoded, capsys):
    searches = place / "searches.yaml"
    searches.write_text("plain: {name: ctc_greedy}\nwide: {name: ctc_beam, beam: 4, nbest: 3}\n")
    arguments = "--searches", searches, "--searches.wide.nbest=2"
    run(place, "--cuts", place / "cuts.jsonl.gz", "--out", place / "both", *arguments)
    assert (place / "both/plain/text").read_text() == (decoded / "text").read_text()
    ranks = [json.loads(line) for line in (place / "both/wide/nbest.jsonl").read_text().splitlines()]
    assert [row["rank"] for row in ranks] == [1, 2] * 4
    assert all(best["score"] >= second["score"] for best, second in zip(ranks[::2], ranks[1::2], strict=True))
    assert {row[0] for row in lines(place / "both/wer-summary.txt")} == {"settings", "plain", "wide"}
    assert not (place / "both/plain/nbest.jsonl").exists() and "settings\tWER" in capsys.readouterr().out


def test_words_with_times_of_ones_own_audio(place, decoded, capsys):
    file = min((place / "audio").glob("*.flac"))
    words = [line[4] for line in lines(decoded / "words.ctm") if line[0] == file.stem]
    run(place, file, "--format", "json")
    found = json.loads(capsys.readouterr().out)
    assert [word["text"] for word in found["words"]] == words and found["text"] == " ".join(words)
    for form, clock in (("srt", "00:00:00,"), ("vtt", "00:00:00.")):
        run(place, file, "--format", form)
        output = capsys.readouterr().out
        assert f"\n{clock}" in output and words[0] in output
    run(place, file, "--format", "textgrid", "--out", place / "grid")
    assert f'text = "{words[0]}"' in (place / f"grid/{file.stem}.TextGrid").read_text()
    assert [row[1:] for row in lines(place / "grid/text")] == [words]


@pytest.fixture(scope="module")
def causal(place):
    """A second model of the same tokens, which can be streamed: CTC and a transducer."""
    return save_recognizer(place / "causal", CAUSAL, seed=3)


def test_streaming_finds_what_is_found_at_once(place, causal, capsys):
    searches = place / "streams.yaml"
    searches.write_text("ctc: {name: ctc_greedy}\nbeam: {name: modified_beam, beam: 3}\n")
    common = "--model", causal, "--cuts", place / "cuts.jsonl.gz", "--searches", searches
    run(place, *common, "--out", place / "whole")
    run(place, *common, "--out", place / "stream", "--streaming", "--streaming.endpoint.enabled=false")
    printed = capsys.readouterr().out
    for name in ("ctc", "beam"):
        text, words = ((place / folder / name / "text").read_text() for folder in ("whole", "stream"))
        assert text == words and len(text.split()) > 8
        found = json.loads((place / "stream" / name / "latency.json").read_text())
        # A token is known at the end of its chunk of 0.32 s at the latest, by the greedy search.
        assert 0 < found["real_time_factor"] and found["algorithmic"] <= found["mean"] <= found["greatest"]
        assert found["algorithmic"] < 0.32 or name == "beam"
        assert f"{name}: latency {found['mean']:.2f} s" in printed
    assert (place / "stream/wer-summary.txt").read_text() == (place / "whole/wer-summary.txt").read_text()


@pytest.fixture(scope="module")
def aligned(place):
    run(place, "--cuts", place / "cuts.jsonl.gz", "--out", place / "ali", "--align")
    return place / "ali"


def test_alignment_gives_the_transcripts_back(place, aligned):
    cuts = list(open_cuts(place / "cuts.jsonl.gz"))[:4]
    assert lines(aligned / "text") == [[cut.id, *cut.supervisions[0].text.split()] for cut in cuts]
    expected = [[cut.id, word] for cut in cuts for word in cut.supervisions[0].text.split()]
    assert [[line[0], line[4]] for line in lines(aligned / "words.ctm")] == expected


@pytest.mark.parametrize("name", ["text", "words.ctm"])
def test_results_can_be_scored(place, aligned, name):
    reference, found = f"{place}/cuts.jsonl.gz", f"{place}/wer.json"
    score.main(
        ["wer", "--ref", reference, "--hyp", f"{aligned}/{name}", "--missing", "empty", "--json", found]
    )
    # All but the word of the recording that is lost.
    figures = json.loads((place / "wer.json").read_text())
    assert (figures["deletions"], figures["insertions"], figures["substitutions"]) == (1, 0, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "found none of --cuts and audio files"),
        (["--cuts", "{}/cuts.jsonl.gz"], "--cuts needs --out"),
        (["a.wav", "--align"], "--align needs --cuts"),
        (["a.wav", "b.wav", "--format", "srt"], "--format srt of several files needs --out"),
        (["a.wav", "--streaming.chunk_size=8"], "--streaming.KEY=VALUE needs --streaming"),
        (
            ["{}/lost.flac", "--streaming"],
            "speech.encoder.name: found 'conformer', expected 'zipformer' for streaming",
        ),
        (["{}/lost.flac", "--streaming", "--streaming.chunks=8"], "unknown key chunks"),
        (["a.wav", "--searches", "x.yaml"], "several searches need --out"),
        (
            ["{}/lost.flac", "--searches", "greedi"],
            "--searches: found 'greedi', expected a YAML file or one of",
        ),
        (
            ["{}/lost.flac", "--searches", "greedy"],
            "greedy: found a model without a transducer",
        ),
        (["{}/lost.flac", "--searches.ctc_greedy.bean=3"], "unknown key bean"),
        (["{}/lost.flac", "--beam=3"], "found --beam, expected settings such as --searches.NAME.beam=4"),
        (
            "{}/lost.flac --out {}/x --searches greedi".split(),
            "--searches: found 'greedi', expected a YAML file or",
        ),
        ("{}/lost.flac --out {}/x --searches {}/none.yaml".split(), "none.yaml: no such file"),
        (["--cuts", "{}/none.jsonl.gz", "--out", "{}/x"], "none.jsonl.gz: no such file"),
        (["{}/lost.flac"], "none of 1 recordings can be used; the first: .*missing: no such file"),
        (["{}/lost.flac", "--device", "gpu7"], "device: found 'gpu7', which this machine does not have"),
        (["{}/lost.flac", "--model", "{}"], "not a model directory, expected config.yaml"),
        (
            [
                "--cuts",
                "{}/cuts.jsonl.gz",
                "--out",
                "{}/x",
                "--align",
                "--window-seconds",
                "0.5",
                "--overlap-seconds",
                "0",
            ],
            "none of 5 recordings can be used",
        ),
    ],
)
def test_mistakes(place, arguments, message):
    with pytest.raises(UserError, match=message):
        run(place, *(text.format(place) for text in arguments))
