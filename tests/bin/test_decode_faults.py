"""What `decode` refuses of the files that a search names, and recordings in which there is next to nothing to find."""

import functools
from pathlib import Path

import numpy as np
import pytest

from tests.bin.small_recognizer import CAUSAL, CONFORMER, save_recognizer
from tests.faults.harness import audio, put
from toolkit import checkpoint, config
from toolkit.bin import decode, graph
from toolkit.data.synthetic import synthetic_cuts
from toolkit.decode.registry import SEARCHES
from toolkit.errors import UserError
from toolkit.files import read_jsonl
from toolkit.models.lm import LanguageModel, LstmLmConfig
from toolkit.tasks import recognize
from toolkit.tasks.lm import LmConfig
from toolkit.text.tokenizer import CharTokenizer, load_tokenizer

ARPA = """\\data\\
ngram 1=5
ngram 2=2

\\1-grams:
-99 <s> -0.3
-1 </s>
-0.5 a -0.2
-0.6 n
-0.7 ▁

\\2-grams:
-0.1 <s> a
-0.2 a n

\\end\\
"""
WORDS = """\\data\\
ngram 1=5

\\1-grams:
-99 <s>
-1 </s>
-0.5 nod
-0.6 QQ
-0.7 at

\\end\\
"""
NO_WORDS = "\\data\\\nngram 1=2\n\n\\1-grams:\n-99 <s>\n-1 </s>\n\n\\end\\\n"
OTHER_TOKENS = (
    "found 0 of the 15 symbols among its words, not '<unk>', '▁', 'a'; expected an n-gram model over the"
)
ONLY_AUDIO = sorted(SEARCHES.keys() - {"hlg"})
STREAMED = ["ctc_greedy", "greedy", "modified_beam"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with recognisers: "model"; "mute", whose likeliest symbol is always the blank; "normalizing".

    Each is read once for all tests, as that takes longer than what is tested.
    """
    folder = tmp_path_factory.mktemp("models")
    save_recognizer(folder / "model", CAUSAL, seed=3, blank=-3.0)
    save_recognizer(folder / "mute", CAUSAL, blank=1e3)
    save_recognizer(folder / "normalizing", CONFORMER)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recognize, "load_task_and_model", functools.cache(recognize.load_task_and_model))
        yield folder


@pytest.fixture(autouse=True)
def place(models, tmp_path, monkeypatch):
    """The current folder: a recording of a second, and links to the models."""
    for path in models.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    put(Path("tone.wav"), audio())


def run(*arguments, model="model"):
    decode.main(["--model", model, "--device", "cpu", *arguments])


def refusal(setting, value):
    """What is said of a setting, which must be one line and leave nothing behind."""
    with pytest.raises(UserError) as caught:
        run(
            "tone.wav",
            *("--out", "out"),
            *("--searches", setting.partition(".")[0], f"--searches.{setting}={value}"),
        )
    assert "\n" not in str(caught.value) and not Path("out").exists()
    return str(caught.value)


def save_lm(folder, tokens):
    network = LstmLmConfig(dim=8, num_layers=1)
    config.save(LmConfig(network=network), folder / "config.yaml")
    checkpoint.save(folder / "model.safetensors", LanguageModel(network, len(tokens)).state_dict())
    CharTokenizer(tokens).save(folder)


FUSED = {
    "ngram": "x: no such file, expected an ARPA file",
    "lodr": "x: no such file, expected an ARPA file",
    "lm": "x/config.yaml: no such file",
    "biasing": "x: no such file, expected a phrase a line",
}
MISSING = {
    **{f"ctc_beam.fusion.{key}": message for key, message in FUSED.items()},
    "modified_beam.fusion.ngram": FUSED["ngram"],
    "rescoring.fusion.lm": FUSED["lm"],
    "rescoring.first.fusion.ngram": FUSED["ngram"],
    "ctc_beam.words.ngram": FUSED["ngram"],
    "ctc_beam.words.lexicon": "x: no such file, expected a lexicon, a word and its phones a line",
    "hlg.graph": "x/HLG.fst: no such file, expected a graph made by python -m toolkit.bin.graph",
}


@pytest.mark.parametrize("setting", MISSING)
def test_missing_files(setting):
    assert refusal(setting, "x") == MISSING[setting]


TEXTS = {
    "fewer n-grams than its head says": (
        "fusion.ngram",
        ARPA.replace("ngram 2=2", "ngram 2=3"),
        r"x:15: found 2 2-grams, expected 3 as \data\ says",
    ),
    "a word for a number": (
        "fusion.ngram",
        ARPA.replace("-0.2 a n", "zero a n"),
        "x:14: found 'zero a n', expected a logarithm, 2 words and at most a back-off weight",
    ),
    "no number": (
        "fusion.ngram",
        ARPA.replace("-0.5 a", "nan a"),
        "x:8: found nan, expected the logarithm of a probability",
    ),
    "cut off among its n-grams": (
        "fusion.ngram",
        ARPA.partition("-0.2 a n")[0],
        r"x:13: found 1 2-grams, expected 2 as \data\ says",
    ),
    "cut off before its end": (
        "fusion.ngram",
        ARPA.partition("\\end")[0],
        "x:15: the file ends here, expected \\end\\",
    ),
    "no ARPA file": (
        "fusion.ngram",
        b"\x00mmap lm http://kheafield.com/code format version 5\n\x00",
        r"x:2: the file ends here, expected \data\, with which an ARPA file begins",
    ),
    "n-grams over other tokens": ("fusion.ngram", WORDS, f"x: {OTHER_TOKENS} same symbols"),
    "to take away, over other tokens": ("fusion.lodr", WORDS, f"x: {OTHER_TOKENS} same symbols"),
    "n-grams of no words": ("fusion.ngram", NO_WORDS, f"x: {OTHER_TOKENS} same symbols"),
    "phrases with unknown symbols": (
        "fusion.biasing",
        "nod\nQ at\nat Qu\n",
        "x:2: found 'Q at' (2 such lines), expected no 'Q', which the model lacks",
    ),
    "phrases with a bad score": (
        "fusion.biasing",
        "nod\t2\nat\tmuch\n",
        "x:2: found 'much' after the tab, expected a score other than 0",
    ),
    "words with unknown symbols": (
        "words.lexicon",
        "nod ▁ n o d\nquit ▁ q u i t\n",
        "x:2: found 'q', which is no token of the model",
    ),
    "words in phones": (
        "words.lexicon",
        "nod N AA1 D\n",
        "x:1: found 'N', which is no token of the model",
    ),
    "no words": (
        "words.lexicon",
        "\n",
        "x: found no words, expected a word and its phones a line",
    ),
    "words that cannot be spelled": (
        "words.ngram",
        WORDS.replace(" nod", " NOD").replace(" at", " AT"),
        "x: found no word that the model's tokens can spell, such as 'AT'; expected words in the spelling of the "
        "transcripts",
    ),
    "n-grams of no words to keep to": (
        "words.ngram",
        NO_WORDS,
        "x: found no word that the model's tokens can spell, such as '</s>'; expected words in the spelling of the "
        "transcripts",
    ),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_files_that_are_damaged_or_of_another_model(kind):
    setting, content, message = TEXTS[kind]
    put(Path("x"), content)
    assert refusal(f"ctc_beam.{setting}", "x") == message


@pytest.mark.parametrize("ngrams", [WORDS, NO_WORDS], ids=["other words", "no words"])
def test_a_lexicon_and_ngrams_that_share_no_word(ngrams):
    put(Path("lexicon"), "moon ▁ m o o n\n")
    put(Path("x"), ngrams)
    with pytest.raises(UserError) as caught:
        run("tone.wav", "--searches=ctc_beam", "--searches.ctc_beam.words={lexicon: lexicon, ngram: x}")
    assert str(caught.value) == (
        "x: found 0 of the 1 symbols among its words, not 'moon'; expected an n-gram model over the same symbols"
    )


TRAIN_WITH = "of the recogniser; train it with tokenizer.folder: the recogniser's model directory"
LANGUAGE_MODELS = {
    "one token differs": (lambda known: [*known[:-1], "z"], "x: found token 15 to be 'z', expected 'u' "),
    "fewer tokens": (lambda known: known[:-1], "x: found 15 tokens, expected the 16 tokens "),
}


@pytest.mark.parametrize(
    ("kind", "search"), [("one token differs", "modified_beam"), ("fewer tokens", "ctc_beam")]
)
def test_a_language_model_over_other_tokens(kind, search):
    change, message = LANGUAGE_MODELS[kind]
    save_lm(Path("x"), change(load_tokenizer("model").tokens))
    assert refusal(f"{search}.fusion.lm", "x") == message + TRAIN_WITH


def test_a_recogniser_is_no_language_model():
    assert refusal("ctc_beam.fusion.lm", "model") == "model/config.yaml: task: found 'asr', expected 'lm'"


def test_a_graph_over_other_tokens():
    pytest.importorskip("kaldifst")
    pytest.importorskip("kaldi_decoder")
    CharTokenizer(["<blk>", "<unk>", "▁", "a", "d", "n", "o", "t"]).save(Path("other"))
    put(Path("words.arpa"), WORDS)
    graph.main(["--model", "other", "--arpa", "words.arpa", "--out", "x"])
    expected = "x/tokens.txt:5: found 'd', expected 'b' as in the tokens of the model"
    assert refusal("hlg.graph", "x") == expected


def test_the_same_files_without_faults_are_taken(capsys):
    """And words that the model cannot spell are none that it finds."""
    put(Path("tokens.arpa"), ARPA)
    put(Path("words.arpa"), WORDS)
    put(Path("phrases"), "nod\nat\t2\n")
    save_lm(Path("lm"), load_tokenizer("model").tokens)
    put(
        Path("searches.yaml"),
        "all: {name: ctc_beam, fusion: {ngram: tokens.arpa, lodr: tokens.arpa, lm: lm, biasing: phrases}, "
        "words: {ngram: words.arpa, bonus: 9}}",
    )
    run("tone.wav", "--searches", "searches.yaml", "--out", "out")
    name, *words = Path("out/all/text").read_text().split()
    assert name == "tone" and words and set(words) <= {"nod", "at"}


def rows(kind):
    """The lines of a CTM file: id, channel, start, duration, what, confidence."""
    return [line.split() for line in Path(f"out/{kind}.ctm").read_text().splitlines()]


@pytest.fixture
def nothing_to_hear():
    """Recordings of zeros: of a second, and of the least length that is taken."""
    put(Path("silent.wav"), audio(lambda tone: 0 * tone))
    put(Path("brief.wav"), audio(lambda tone: 0 * tone[:1600]))
    return "silent.wav", "brief.wav"


@pytest.mark.parametrize(
    "arguments",
    [*([name] for name in ONLY_AUDIO), *([name, "--streaming"] for name in STREAMED)],
    ids=" ".join,
)
def test_silence_is_no_words(nothing_to_hear, arguments):
    run(*nothing_to_hear, "--out", "out", "--searches", *arguments, model="mute")
    assert Path("out/text").read_text() == "silent\nbrief\n"
    assert Path("out/words.ctm").read_text() == Path("out/tokens.ctm").read_text() == ""
    assert not list(read_jsonl("out/skipped.jsonl")) and not Path("out/latency.json").exists()


@pytest.mark.parametrize("form", decode.FORMATS)
def test_silence_in_every_form(nothing_to_hear, form, capsys):
    run("silent.wav", "--format", form, model="mute")
    shown = {
        "text": "silent\t\n",
        "json": '{"id": "silent", "text": "", "words": [], "tokens": []}\n',
        "srt": "\n",
        "vtt": "WEBVTT\n\n",
    }
    printed = capsys.readouterr().out
    assert printed == shown[form] if form in shown else 'text = ""' in printed


@pytest.mark.parametrize(
    ("search", "model"), [*((name, "model") for name in ONLY_AUDIO), ("ctc_greedy", "normalizing")]
)
def test_what_is_heard_in_silence_has_a_score(nothing_to_hear, search, model):
    """Where all features are equal there are still finite numbers."""
    run(*nothing_to_hear, "--out", "out", "--searches", search, model=model)
    found = rows("tokens")
    assert "silent" in {row[0] for row in found}
    assert all(0 < float(row[5]) <= 1 and float(row[2]) + float(row[3]) <= 1.05 for row in found)
    assert [line.split()[0] for line in Path("out/text").read_text().splitlines()] == ["silent", "brief"]


@pytest.mark.parametrize("way", ["whole", "--streaming"])
def test_less_than_a_frame_is_listed(way):
    put(Path("scrap.wav"), audio(lambda tone: tone[:100]))
    run("scrap.wav", "tone.wav", "--out", "out", *([way] if way.startswith("-") else []))
    (row,) = read_jsonl("out/skipped.jsonl")
    reason = "too short: 100 samples, limit 0.1 s"
    assert row == {"id": "scrap", "path": "scrap.wav", "reason": reason}
    assert [line.split()[0] for line in Path("out/text").read_text().splitlines()] == ["tone"]


@pytest.mark.parametrize("search", ONLY_AUDIO)
def test_longer_than_a_window(search):
    """What all windows hold, in the order of its times, as the one reading of the recording."""
    speech = np.concatenate([cut.load_audio()[0] for cut in synthetic_cuts(2)])[:40_000]
    put(Path("long.wav"), audio(lambda _: speech))
    windows = "--window-seconds", "1", "--overlap-seconds", "0.25"
    run("long.wav", "--out", "out", "--searches", search, *windows)
    (line,) = Path("out/text").read_text().splitlines()
    words, tokens = rows("words"), rows("tokens")
    assert line.split() == ["long", *(row[4] for row in words)] and not Path("out/nbest.jsonl").exists()
    starts = [float(row[2]) for row in tokens]
    assert starts == sorted(starts) and starts[0] < 0.75 and 1.75 < starts[-1] < 2.5
