"""Decodes the recordings, reads their transcripts, and splits them so that no test sentence is trained on.

Writes cuts_real_{train,valid,test}.jsonl.gz, skipped_real.jsonl (what is not speech) and untranscribed.jsonl
(speech whose transcript is missing or does not say what is spoken; it serves pretraining only).
"""

import argparse
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from multiprocessing import Pool
from pathlib import Path
from typing import NamedTuple

from corpus import LANGUAGES, SPLITS, read_source, sounds_folder, transcripts_file
from lhotse import MonoCut

from toolkit.bin import run
from toolkit.data.codecs import SAMPLE_RATE, BadAudio, read_header, to_flac
from toolkit.data.levels import Limits
from toolkit.data.manifests import mono_cut, write_cuts
from toolkit.data.validate import Rules, kind, skipped_row, validate
from toolkit.errors import UserError
from toolkit.files import write_jsonl
from toolkit.progress import progress
from toolkit.text.normalize import foreign, normalize

NOT_SPEECH = {
    "ascending-2tone",
    "beep",
    "beeperr",
    "confbridge-join",
    "confbridge-leave",
    "descending-2tone",
    "tt-monkeys",
}
"""Tones, and monkeys."""
LETTERS_PER_SECOND = (2.0, 25.0)
"""A transcript outside these bounds is not that of its recording."""
SIGNS = dict(
    zip("0123456789*#", "zero one two three four five six seven eight nine star pound".split(), strict=True)
)
"""How the English prompts say a sign that stands alone."""


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument("--data", type=Path, required=True, help="data folder of the recipe")
    result.add_argument(
        "--valid", type=float, default=0.05, help="share of the sentences for validation (default: 0.05)"
    )
    result.add_argument("--seed", default="mini", help="decides which sentence goes where (default: mini)")
    result.add_argument("--jobs", type=int, default=2, help="processes (default: 2)")
    return result


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    if read_source(args.data) == "espeak":
        print("manifests: there are no real recordings")
        for path in args.data.glob("cuts_real_*.jsonl.gz"):
            path.unlink()  # of an earlier run that had some
        return
    decoded, skipped = decode_all(args.data, args.jobs)
    cuts, untranscribed = transcribe(decoded, args.data)
    splits = split(cuts, args.valid, args.seed)
    for name in SPLITS:
        kept = check(splits[name], skipped)
        write_cuts(args.data / f"cuts_real_{name}.jsonl.gz", kept)
        report(name, kept)
    write_jsonl(args.data / "skipped_real.jsonl", skipped)
    write_jsonl(args.data / "untranscribed.jsonl", untranscribed)
    print(f"manifests: skipped {count_kinds(skipped)}")
    print(f"manifests: kept without a transcript {count_kinds(untranscribed)}")


class Recording(NamedTuple):
    """One recorded prompt."""

    language: str
    key: str
    """Its name in the list of transcripts, such as digits/7."""
    source: Path
    """The G.722 file."""
    target: Path
    """The FLAC file."""

    @property
    def id(self) -> str:
        """Such as real-en-digits-7."""
        return f"real-{self.language}-{self.target.stem}"


def decode_all(data: Path, jobs: int) -> tuple[list[tuple[Recording, int]], list[dict]]:
    """Decodes every recording that is not decoded yet.

    Returns:
        The recordings that are speech with their number of samples, and rows about the others.
    """
    recordings = list(list_recordings(data))
    decoded, skipped = [], []
    with Pool(jobs) as pool:
        outcomes = progress(pool.imap(decode_one, recordings, 16), len(recordings), "decode")
        for recording, outcome in zip(recordings, outcomes, strict=True):
            if isinstance(outcome, str):
                skipped.append(skipped_row(recording.id, recording.source, outcome))
            else:
                decoded.append((recording, outcome))
    return decoded, skipped


def list_recordings(data: Path) -> Iterator[Recording]:
    for language in LANGUAGES:
        folder = sounds_folder(data, language)
        for path in sorted(folder.rglob("*.g722")):
            key = path.relative_to(folder).with_suffix("").as_posix()
            target = data.absolute() / "audio" / "real" / language / f"{key.replace('/', '-')}.flac"
            yield Recording(language, key, path, target)


def decode_one(recording: Recording) -> int | str:
    """The number of samples, or the reason why the recording cannot be used."""
    if recording.key.startswith("silence/") or recording.key in NOT_SPEECH:
        return "not speech: a tone, a noise or silence"
    with suppress(BadAudio):
        return read_header(recording.target).num_samples  # decoded before
    try:
        return to_flac(recording.source, recording.target, limits=Limits())
    except BadAudio as bad:
        return bad.reason


def transcribe(decoded: Iterable[tuple[Recording, int]], data: Path) -> tuple[list[MonoCut], list[dict]]:
    """Makes cuts, with a text where it is known what is spoken, and rows about those where it is not."""
    transcripts = {language: read_transcripts(transcripts_file(data, language)) for language in LANGUAGES}
    cuts, untranscribed = [], []
    for recording, num_samples in decoded:
        language = recording.language
        words = spoken(recording.key, transcripts[language].get(recording.key, []), language)
        seconds = num_samples / SAMPLE_RATE
        if words.text and not LETTERS_PER_SECOND[0] < len(words.text) / seconds < LETTERS_PER_SECOND[1]:
            words = Words(None, f"not what is spoken: {words.text!r} in {seconds:.1f} s")
        if words.text is None:
            untranscribed.append(skipped_row(recording.id, recording.target, words.problem))
        cut = mono_cut(
            recording.id,
            recording.target,
            num_samples,
            text=words.text,
            speaker=LANGUAGES[language].speaker,
            language=language,
            source="real",
        )
        if words.expanded:
            cut.expanded = True
        cuts.append(cut)
    return cuts, untranscribed


def read_transcripts(path: Path) -> dict[str, list[str]]:
    """Reads lines "key: text"; ";" starts a comment, and a key may have several texts."""
    texts = defaultdict(list)
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if line.strip() and not line.startswith(";"):
            key, colon, text = line.partition(":")
            if not colon:
                raise UserError(f"{path}:{number}: found {line[:40]!r}, expected `name: transcript`")
            texts[key.strip()].append(text.strip())
    return texts


class Words(NamedTuple):
    """What is spoken, or why that is not known."""

    text: str | None
    problem: str = ""
    expanded: bool = False


def spoken(key: str, texts: list[str], language: str) -> Words:
    """The normalised words of a transcript."""
    if not texts:
        return Words(None, "no transcript")
    if len(set(texts)) > 1:
        return Words(None, f"several transcripts: {texts}")
    # In parentheses: how to say it. In square brackets: the sign that the words name, or an option.
    text = written = re.sub(r"\([^)]*\)|\[[^]\w]*\]", " ", texts[0])
    if language == "en":
        text = re.sub(r"(?<!\S)[0-9*#](?![^\s,.])", lambda sign: SIGNS[sign[0]], text)
    if re.search(r"[][<>#*/@]|\?\s*[^\W\d_A-Z]|\w-\w[\w-]*:", text):
        return Words(None, f"signs or damage: {texts[0]}")
    expanded = text != written
    text = normalize(text, language)
    if not text:
        return Words(None, f"no words: {texts[0]}")
    if foreign(text, language):
        return Words(None, f"digits or foreign letters: {texts[0]}")
    if len(text) == 1 and key.startswith("letters/"):
        return Words(None, f"spelled letter: {texts[0]}")
    return Words(text, expanded=expanded)


def split(cuts: Iterable[MonoCut], valid: float, seed: str) -> dict[str, list[MonoCut]]:
    """Splits by sentence: equal sentences of a language stay together.

    Cuts without a text are for training. So are those whose signs were put into words here, so that nothing
    is tested against a guess, unless another recording has the same words as written.
    """
    cuts = list(cuts)
    written = {cut.supervisions[0].text for cut in cuts if not cut.has_custom("expanded")}
    splits: dict[str, list[MonoCut]] = {name: [] for name in SPLITS}
    for cut in cuts:
        text = cut.supervisions[0].text
        free = text is None or (cut.has_custom("expanded") and text not in written)
        splits["train" if free else draw(text, cut.supervisions[0].language, valid, seed)].append(cut)
    return splits


def draw(text: str, language: str, valid: float, seed: str) -> str:
    """The split of a sentence, from its hash."""
    number = int(hashlib.sha256(f"{seed}/{language}/{text}".encode()).hexdigest()[:12], 16) / 16**12
    test = LANGUAGES[language].test_sentences if " " in text else LANGUAGES[language].test_words
    return "test" if number < test else "valid" if number < test + valid else "train"


def check(cuts: list[MonoCut], skipped: list[dict]) -> list[MonoCut]:
    """The cuts that pass validation; rows about the others are added to `skipped`."""
    kept = []
    for cut, reason in validate(cuts, Rules(overlap=False)):
        if reason is None:
            kept.append(cut)
        else:
            skipped.append(skipped_row(cut.id, cut.recording.sources[0].source, reason))
    return kept


def report(name: str, cuts: list[MonoCut]) -> None:
    for language in LANGUAGES:
        own = [cut for cut in cuts if cut.supervisions[0].language == language]
        told = [cut for cut in own if cut.supervisions[0].text]
        several = sum(" " in cut.supervisions[0].text for cut in told)
        print(
            f"manifests: {name:5} {language}: {len(own):4} cuts, {minutes(own):5.1f} min; "
            f"transcribed {len(told):4} ({several:3} of several words), {minutes(told):5.1f} min"
        )


def minutes(cuts: Iterable[MonoCut]) -> float:
    return sum(cut.duration for cut in cuts) / 60


def count_kinds(rows: Iterable[dict]) -> str:
    counts = Counter(kind(row["reason"]) for row in rows)
    return ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "none"


if __name__ == "__main__":
    run(main)
