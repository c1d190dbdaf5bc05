"""The data stages of egs/mini, on a made-up corpus in the official layout."""

import gzip
import hashlib
import importlib.util
import io
import lzma
import sys
import tarfile
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

from toolkit.data.espeak import Espeak, Voice
from toolkit.data.manifests import open_cuts
from toolkit.errors import UserError
from toolkit.files import read_jsonl

SCRIPTS = ("corpus", "sentences", "fetch", "manifests", "tts", "tasks", "meetings")
WORDS = {
    "en": "please enter your number then press the key and wait for a new message today".split(),
    "es": "por favor marque su número y espere el mensaje nuevo de hoy".split(),
    "fr": "veuillez composer votre numéro puis attendez le nouveau message du jour".split(),
    "it": "prego digitare il numero e attendere il nuovo messaggio di oggi".split(),
    "ru": "пожалуйста введите ваш номер и ждите новое сообщение сегодня".split(),
}
needs_espeak = pytest.mark.skipif(
    importlib.util.find_spec("espeakng_loader") is None, reason="no espeakng-loader"
)


@pytest.fixture(scope="module")
def local(root):
    """The scripts, as modules."""
    folder = str(root / "egs" / "mini" / "local")
    sys.path.insert(0, folder)
    try:
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in SCRIPTS})
    finally:
        sys.path.remove(folder)
        for name in SCRIPTS:
            sys.modules.pop(name, None)


def g722(seconds: float, seed: int, level: float = 0.2) -> bytes:
    """A raw G.722 file of noise and tones."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(16_000 * seconds)) / 16_000
    samples = level * (
        np.sin(2 * np.pi * (200 + 20 * (seed % 30)) * time) + 0.2 * rng.standard_normal(len(time))
    )
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="g722") as file:
        stream = file.add_stream("g722", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray((20_000 * samples).astype("i2")[None], format="s16", layout="mono")
        frame.sample_rate = 16_000
        for part in (frame, None):
            file.mux(stream.encode(part))
    return buffer.getvalue()


@cache
def made_up(language: str) -> tuple[dict[str, bytes], str]:
    """G.722 files by name, and the list of transcripts."""
    words, lines, sounds = WORDS[language], ["; a comment", ""], {}
    for number in range(30):
        text = f"{words[number % len(words)]} {' '.join(words[: 2 + number % 7])} {words[-1 - number // 10]}"
        sounds[f"prompt{number}"] = g722(1.6 + len(text) / 25, number)
        lines.append(f"prompt{number}: {text.capitalize()}.")
    lines += [
        "digits/7: 7",
        "beep: [a beep]",
        "twin-a: Equal words here",
        "twin-b: Equal words, here!",
        "gone: No file",
    ]
    lines += [
        "press: Press 1 now",
        "odd: caf? chiuso",
        "twice: one",
        "twice: two",
        "flaw: " + "far too many words " * 20,
    ]
    for name in (
        "digits/7",
        "beep",
        "twin-a",
        "twin-b",
        "press",
        "odd",
        "twice",
        "flaw",
        "untold",
        "silence/1",
    ):
        sounds[name] = g722(1.7, len(sounds))
    sounds["hollow"] = b""
    return sounds, "\ufeff" + "\n".join(lines) + "\n"


def tar_of(sounds: dict[str, bytes], text_name: str, text: bytes, prefix: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in [
            *((f"{prefix}{key}.g722", sound) for key, sound in sounds.items()),
            (text_name, text),
        ]:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def deb_of(content: bytes) -> bytes:
    """A Debian package: an `ar` archive of three members."""
    control = io.BytesIO()
    with tarfile.open(fileobj=control, mode="w:gz"):
        pass
    members = {
        "debian-binary": b"2.0\n",
        "control.tar.gz": control.getvalue(),
        "data.tar.xz": lzma.compress(content, preset=0),
    }
    packed = b"!<arch>\n"
    for name, body in members.items():
        packed += (
            f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(body):<10}`\n".encode()
            + body
            + b"\n" * (len(body) % 2)
        )
    return packed


@pytest.fixture(scope="module")
def sources(local, tmp_path_factory) -> Path:
    """A folder with packages, tarballs and checksums of the made-up corpus."""
    folder = tmp_path_factory.mktemp("sources")
    checksums = ["# made up"]
    for language in WORDS:
        sounds, text = made_up(language)
        listing = "".join(
            f"{hashlib.sha256(sounds[key]).hexdigest()}  {key}.g722\n"
            for key in sorted(sounds, key=lambda key: f"{key}.g722")
        )
        checksums.append(f"{hashlib.sha256(listing.encode()).hexdigest()}  sounds-{language}")
        checksums.append(f"{hashlib.sha256(text.encode()).hexdigest()}  transcripts-{language}")
        list_name, place = f"core-sounds-{language}.txt", f"./usr/share/asterisk/sounds/{language}_XX/"
        for name, content in {
            f"asterisk-core-sounds-{language}-g722": tar_of(sounds, "README", b"", place),
            f"asterisk-core-sounds-{language}": tar_of(
                {}, f"./usr/share/doc/{list_name}.gz", gzip.compress(text.encode()), ""
            ),
        }.items():
            package = deb_of(content)
            (folder / f"{name}_1_all.deb").write_bytes(package)
            checksums.append(f"{hashlib.sha256(package).hexdigest()}  {name}_1_all.deb")
        upstream = gzip.compress(tar_of(sounds, list_name, text.encode(), ""))
        (folder / f"asterisk-core-sounds-{language}-g722-{local.corpus.VERSION}.tar.gz").write_bytes(upstream)
    (folder / "checksums.txt").write_text("\n".join(checksums) + "\n")
    return folder


@pytest.fixture()
def apt(local, sources, tmp_path, monkeypatch):
    """An apt-get that copies from a folder, and fails for the first time if asked to."""
    monkeypatch.setattr(local.fetch, "CHECKSUMS", sources / "checksums.txt")
    monkeypatch.setattr(
        local.fetch, "UPSTREAM", f"file://{sources}/asterisk-core-sounds-{{}}-g722-{{}}.tar.gz"
    )
    tools = tmp_path / "tools"
    tools.mkdir()
    script = tools / "apt-get"

    def install(body: str) -> None:
        script.write_text(f"#!/bin/sh\n{body}\n")
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")

    install(
        f'for name; do case $name in asterisk*) cp {sources}/"$name"_1_all.deb . || exit 100;; esac; done'
    )
    return install


def check_fetched(data: Path, source: str) -> None:
    assert (data / "source.txt").read_text() == f"{source}\n"
    for language in WORDS:
        sounds, text = made_up(language)
        for key, content in sounds.items():
            assert (data / "raw" / language / "sounds" / f"{key}.g722").read_bytes() == content
        assert (data / "raw" / language / "transcripts.txt").read_text(encoding="utf-8") == text
    assert not (data / "download").exists()


@pytest.mark.parametrize("dpkg", [True, False])
def test_fetch_from_debian(local, apt, tmp_path, monkeypatch, dpkg, capsys):
    if not dpkg:
        which = local.fetch.shutil.which
        monkeypatch.setattr(
            local.fetch.shutil, "which", lambda name: None if name == "dpkg-deb" else which(name)
        )
    local.fetch.main(["--data", str(tmp_path / "data")])
    check_fetched(tmp_path / "data", "debian")
    assert "download of 10 packages" in capsys.readouterr().out
    apt("exit 1")
    local.fetch.main(["--data", str(tmp_path / "data")])  # nothing is left to download
    check_fetched(tmp_path / "data", "debian")


def test_fetch_with_lists_of_its_own(local, apt, sources, tmp_path, capsys):
    flag = tmp_path / "updated"
    apt(
        f"""
        case "$*" in *update*) touch {flag}; exit;; esac
        [ -e {flag} ] || {{ echo no lists >&2; exit 100; }}
        for name; do case $name in asterisk*) cp {sources}/"$name"_1_all.deb .;; esac; done
        """
    )
    local.fetch.main(["--data", str(tmp_path / "data"), "--source", "debian"])
    check_fetched(tmp_path / "data", "debian")
    said = capsys.readouterr().out
    assert "apt-get: no lists" in said and "package lists of our own" in said


def test_fetch_from_upstream_where_apt_fails(local, apt, tmp_path, capsys):
    apt("echo no network >&2; exit 100")
    local.fetch.main(["--data", str(tmp_path / "data")])
    check_fetched(tmp_path / "data", "upstream")
    assert "debian: apt-get cannot download the packages" in capsys.readouterr().out


def test_fetch_goes_on_with_espeak_where_nothing_can_be_reached(local, apt, tmp_path, monkeypatch, capsys):
    apt("exit 100")
    monkeypatch.setattr(local.fetch, "UPSTREAM", "file:///nowhere/{}-{}.tar.gz")
    local.fetch.main(["--data", str(tmp_path / "data")])
    assert local.corpus.read_source(tmp_path / "data") == "espeak"
    assert "synthetic voices (espeak-ng) alone" in capsys.readouterr().out
    with pytest.raises(UserError, match="--source upstream: the recordings could not be fetched"):
        local.fetch.main(["--data", str(tmp_path / "data"), "--source", "upstream"])


def test_fetch_refuses_other_recordings(local, apt, sources, tmp_path, monkeypatch, capsys):
    changed = (sources / "checksums.txt").read_text().replace(
        "sounds-fr", "sounds-xx"
    ) + f"{'0' * 64}  sounds-fr\n"
    (tmp_path / "checksums.txt").write_text(changed)
    monkeypatch.setattr(local.fetch, "CHECKSUMS", tmp_path / "checksums.txt")
    with pytest.raises(UserError):
        local.fetch.main(["--data", str(tmp_path / "data"), "--source", "debian"])
    assert "the recordings in 'fr' are not those of checksums.txt" in capsys.readouterr().out


def test_real_checksums_are_complete(local):
    known = local.fetch.read_checksums()
    assert {f"{kind}-{language}" for kind in ("sounds", "transcripts") for language in WORDS} <= set(known)
    assert len(known) == 20 and all(len(digest) == 64 for digest in known.values())


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
