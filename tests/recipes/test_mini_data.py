"""The data stages of egs/mini after `fetch`, on a made-up corpus."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from tests.recipes.made_up import WORDS, made_up
from toolkit.data.espeak import Espeak, Voice
from toolkit.data.manifests import open_cuts
from toolkit.errors import UserError
from toolkit.files import read_jsonl

needs_espeak = pytest.mark.skipif(
    importlib.util.find_spec("espeakng_loader") is None, reason="no espeakng-loader"
)


@pytest.mark.parametrize(
    ("language", "written", "spoken"),
    [
        (
            "en",
            "That agent is already logged on.  Please enter your number.",
            "that agent is already logged on please enter your number",
        ),
        ("en", "at the tone, the time will be exactly...", "at the tone the time will be exactly"),
        ("en", "Press 1 for help, press # to exit.", "press one for help press pound to exit"),
        ("en", 'IAX (note: does not say "2")', "iax"),
        ("en", "dash [-]", "dash"),
        ("en", "A.M.", "a m"),
        ("en", "[descending tones]", None),
        ("en", "(10 seconds of silence)", None),
        ("en", "<beep ascending>", None),
        ("en", "3D audio enabled", None),
        ("en", "", None),
        ("fr", "“Pour quitter, appuyez.”", "pour quitter appuyez"),
        ("fr", "appuyez sur 8", None),
        ("it", "La conferenza ? piena.", None),
        ("it", "sar? esattamente", None),
        ("it", "Il [suo] messaggio", None),
        ("it", "è stato eliminato vm-then-pound: poi premere", None),
        ("it", "Casella di posta?", "casella di posta"),
        ("es", "Buzon? Si", "buzon si"),
        ("ru", "Нажмите «решётку»", "нажмите решетку"),
        ("ru", "код PIN", None),
        ("ru", "включить / выключить", None),
    ],
)
def test_spoken_words(local, language, written, spoken):
    assert local.manifests.spoken("key", [written], language).text == spoken


def test_spelled_letters_and_contradictions_have_no_text(local):
    assert local.manifests.spoken("letters/b", ["b"], "en").text is None
    assert local.manifests.spoken("a", ["a"], "en").text == "a"
    assert local.manifests.spoken("x", ["one", "two"], "en").problem.startswith("several transcripts")
    assert local.manifests.spoken("x", [], "en").problem == "no transcript"
    assert local.manifests.spoken("x", ["press 1"], "en").expanded


@pytest.fixture(scope="module")
def data(local, tmp_path_factory) -> Path:
    """The made-up corpus after the stage `manifests`."""
    folder = tmp_path_factory.mktemp("data")
    for language in WORDS:
        sounds, text = made_up(language)
        for key, content in sounds.items():
            path = folder / "raw" / language / "sounds" / f"{key}.g722"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        (folder / "raw" / language / "transcripts.txt").write_text(text, encoding="utf-8")
    (folder / "source.txt").write_text("debian\n")
    local.manifests.main(["--data", str(folder), "--valid", "0.1"])
    return folder


def read(data: Path, name: str) -> list:
    return list(open_cuts(data / f"{name}.jsonl.gz"))


def texts(cuts: list, language: str) -> set[str]:
    return {cut.supervisions[0].text for cut in cuts if cut.supervisions[0].language == language} - {None}


def test_manifests(local, data):
    splits = {name: read(data, f"cuts_real_{name}") for name in ("train", "valid", "test")}
    assert sum(map(len, splits.values())) == 5 * (30 + 8)
    for language in WORDS:
        train, valid, test = (texts(cuts, language) for cuts in splits.values())
        assert train and test and not (train & test or train & valid or valid & test)
    assert "press one now" in texts(splits["train"], "en") and "press 1 now" not in texts(
        splits["train"], "es"
    )
    for cuts in splits.values():
        twins = {cut.id for cut in cuts if cut.supervisions[0].text == "equal words here"}
        assert (
            not twins
            or {f"real-{key}-twin-{letter}" for key in [next(iter(twins)).split("-")[1]] for letter in "ab"}
            <= twins
        )
        for cut in cuts:
            assert cut.custom["source"] == "real" and cut.load_audio().shape == (1, cut.num_samples)
    speakers = {cut.supervisions[0].speaker for cut in splits["train"]}
    assert speakers == {"allison", "june", "carlo", "ivrvoice"}
    skipped = [row["reason"].split(":")[0] for row in read_jsonl(data / "skipped_real.jsonl")]
    assert sorted(skipped) == ["empty"] * 5 + ["not speech"] * 10
    reasons = {row["id"]: row["reason"].split(":")[0] for row in read_jsonl(data / "untranscribed.jsonl")}
    assert reasons["real-it-odd"] == "signs or damage" and reasons["real-it-twice"] == "several transcripts"
    assert reasons["real-it-flaw"] == "not what is spoken" and reasons["real-it-untold"] == "no transcript"
    assert reasons["real-es-digits-7"] == "digits or foreign letters" and "real-en-digits-7" not in reasons


def test_manifests_again_gives_the_same_bytes(local, data):
    names = [f"cuts_real_{name}.jsonl.gz" for name in ("train", "valid", "test")]
    before = [(data / name).read_bytes() for name in names]
    local.manifests.main(["--data", str(data), "--valid", "0.1"])
    assert [(data / name).read_bytes() for name in names] == before


def test_stages_in_wrong_order_are_told(local, tmp_path):
    with pytest.raises(UserError, match="run the stage `fetch` first"):
        local.manifests.main(["--data", str(tmp_path)])
    (tmp_path / "source.txt").write_text("moon\n")
    with pytest.raises(UserError, match="source.txt:1: found 'moon', expected one of debian"):
        local.manifests.main(["--data", str(tmp_path)])


def test_phrase_books_speak_the_language(local):
    import random

    from toolkit.text.normalize import foreign, normalize

    for language in WORDS:
        drawn = {local.sentences.sentence(language, random.Random(number)) for number in range(200)}
        assert len(drawn) > 100
        for text in drawn:
            assert normalize(text, language) == text and not foreign(text, language) and "{" not in text


def test_unseen_voices_have_variants_of_their_own(local):
    for count in (20, 80):
        speakers = local.tts.invent_speakers(count, seed=0)
        variants = {split: [s.variant for s in speakers if s.split == split] for split in local.corpus.SPLITS}
        assert not set(variants["train"]) & {*variants["valid"], *variants["test"]}
        assert len(variants["train"]) >= 0.75 * count
        assert 2 <= len(variants["valid"]) <= len(variants["test"])
        assert (
            len({(speaker.variant, round(speaker.tract, 3), speaker.pitch) for speaker in speakers}) == count
        )


@needs_espeak
def test_espeak_speaks():
    espeak = Espeak()
    samples, phones = espeak.say("please enter your number", Voice("en-us", "f2"))
    assert espeak.sampling_rate == 22_050 and samples.dtype == np.float32
    assert 1 < len(samples) / espeak.sampling_rate < 3 and 0.1 < np.abs(samples).max() <= 1
    assert [phone.name for phone in phones][:4] == ["p", "l", "'i:", "z"]
    starts = [phone.start for phone in phones]
    assert starts == sorted(starts) and starts[-1] <= len(samples) / espeak.sampling_rate
    slow, _ = espeak.say("please enter your number", Voice("en-us", "f2", rate=100))
    assert len(slow) > 1.3 * len(samples)
    with pytest.raises(UserError, match="no voice 'nowhere"):
        espeak.say("x", Voice("nowhere", "f2"))


@needs_espeak
@pytest.mark.parametrize("source", ["debian", "espeak"])
def test_voices_tasks_and_meetings(local, data, tmp_path, source):
    if source == "espeak":
        data = tmp_path
        local.fetch.main(["--data", str(data), "--source", "espeak"])
        local.manifests.main(["--data", str(data)])
    voices = ["--data", str(data), "--speakers", "20", "--seconds", "12"]
    local.tts.main(voices)
    first = (data / "cuts_tts.jsonl.gz").read_bytes()
    audio = {path: path.read_bytes() for path in (data / "audio" / "tts" / "tts004").glob("*.flac")}
    (data / "audio" / "tts" / "tts004" / "done.json").unlink()
    local.tts.main(voices)
    assert (data / "cuts_tts.jsonl.gz").read_bytes() == first
    assert audio and all(path.read_bytes() == content for path, content in audio.items())
    local.tasks.main(["--data", str(data), "--trials", "30"])
    local.meetings.main(["--data", str(data), "--train", "4", "--valid", "1", "--test", "4"])
    check_tasks(data, real=source != "espeak")
    check_meetings(data, real=source != "espeak")


def check_tasks(data: Path, real: bool) -> None:
    train, test = read(data, "cuts_asr_train"), read(data, "cuts_asr_test")
    assert {cut.custom["source"] for cut in train + test} == {"real" if real else "tts"}
    assert not texts(train, "en") & texts(test, "en")
    assert not texts(read(data, "cuts_asr_tts_train"), "en") & texts(test, "en") or not real
    assert (data / "cuts_asr_it_test.jsonl.gz").exists() == real
    pretrained = {cut.id for name in ("train", "valid") for cut in read(data, f"cuts_pretrain_{name}")}
    verified = {name: read(data, f"cuts_speaker_{name}") for name in ("train", "valid")}
    compared = {name: read(data, f"cuts_trials_{name}") for name in ("valid", "test")}
    assert not pretrained & {cut.id for cut in test + compared["valid"] + compared["test"]}
    learned, known = (speakers(verified[name]) for name in ("train", "valid"))
    choosing, testing = (speakers(compared[name]) for name in ("valid", "test"))
    assert known <= learned and not learned & choosing and not (learned | choosing) & testing
    assert ({"june", "carlo"} <= testing) == real
    speaker_of = {cut.id: cut.supervisions[0].speaker for cuts in compared.values() for cut in cuts}
    names = ("real", "tts", "valid") if real else ("tts", "valid")
    assert sorted(path.name for path in data.glob("trials_*")) == [f"trials_{name}.txt" for name in names]
    for name in names:
        rows = [line.split() for line in (data / f"trials_{name}.txt").read_text().splitlines()]
        assert {row[2] for row in rows} == {"target", "nontarget"}
        assert all((speaker_of[a] == speaker_of[b]) == (kind == "target") and a != b for a, b, kind in rows)
        assert all(
            {speaker_of[a], speaker_of[b]} <= (choosing if name == "valid" else testing) for a, b, _ in rows
        )
        assert len({frozenset(row[:2]) for row in rows}) == len(rows)


def speakers(cuts: list) -> set[str]:
    return {cut.supervisions[0].speaker for cut in cuts}


def check_meetings(data: Path, real: bool) -> None:
    heard = {}
    for split, count in (("train", 4), ("valid", 1), ("test", 4)):
        cuts = read(data, f"cuts_meetings_{split}")
        assert len(cuts) == count
        assert any(cut.custom["source"] == "sim-real" for cut in cuts) == (real and split != "valid")
        heard[split] = {item.speaker for cut in cuts for item in cut.supervisions}
        segments = (data / f"ref_meetings_{split}.rttm").read_text().splitlines()
        assert len(segments) == sum(len(cut.supervisions) for cut in cuts)
        assert len((data / f"ref_meetings_{split}.uem").read_text().splitlines()) == count
        assert all(cut.load_audio().shape == (1, cut.num_samples) for cut in cuts)
    assert not heard["train"] & (heard["valid"] | heard["test"]) and not heard["valid"] & heard["test"]
