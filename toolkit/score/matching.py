"""Bringing a reference and a hypothesis under the same utterance ids.

STM against CTM is matched as sclite does it; any other pair with a timed side is compared as one text for
each recording and channel.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from toolkit.score.errors import ScoreError
from toolkit.score.formats import malformed
from toolkit.score.transcripts import Piece, Transcripts, Utterance

APOSTROPHE = re.compile(r"(?<=\w)[’'](?=\w)")


@dataclass
class Matched:
    """Reference and hypothesis under the same ids.

    Attributes:
        refs: utterance id -> reference text.
        hyps: utterance id -> hypothesis text, the same ids in the same order.
        speakers: utterance id -> speaker, where the reference names one.
        missing: how many hypotheses were missing and taken as empty.
        extra: how many hypotheses without a reference were left out.
        untranscribed: how many cuts of the reference have no text and were left out.
        guessed: file -> format, where the format was told by the content.
    """

    refs: dict[str, str]
    hyps: dict[str, str]
    speakers: dict[str, str]
    missing: int
    extra: int
    untranscribed: int
    guessed: dict[Path, str]

    def normalised(self, lower: bool, remove_punctuation: bool) -> "Matched":
        """The same with both sides normalised; see `normalise`."""
        refs, hyps = (
            {name: normalise(text, lower, remove_punctuation) for name, text in texts.items()}
            for texts in (self.refs, self.hyps)
        )
        return replace(self, refs=refs, hyps=hyps)


def match(
    ref: Transcripts,
    hyp: Transcripts,
    missing: str = "error",
    extra: str = "error",
    utt2spk: Mapping[str, str] | None = None,
) -> Matched:
    """Brings a reference and a hypothesis under the same ids.

    Cuts of the reference without a text are left out, with their hypotheses.

    Args:
        missing: "error", or "empty": a missing hypothesis counts as an empty one (all deletions).
        extra: "error", or "ignore": hypotheses without a reference are left out.
        utt2spk: utterance id -> speaker, instead of the speakers that the reference names.

    Raises:
        ScoreError: nothing to score, a missing or an extra hypothesis, or an utterance without a speaker in
            `utt2spk`, with file and line.
    """
    all_refs, all_hyps = _common_units(ref, hyp)
    if not all_refs:
        raise ScoreError(f"{ref.path}: found no utterance, expected at least one")
    refs, hyps = _with_text(all_refs), _with_text(all_hyps)
    if not refs:
        raise ScoreError(f"{ref.path}: found no text in its cuts ({len(all_refs)}), expected at least one")
    lost = [name for name in refs if name not in hyps]
    if lost and missing == "error":
        raise ScoreError(
            f"{ref.path}:{refs[lost[0]].line}: found {lost[0]!r} ({len(lost)} such), which has no hypothesis "
            f"in {hyp.path}; expected one for each reference (--missing empty counts them as deletions)"
        )
    unknown = [name for name in hyps if name not in all_refs]
    if unknown and extra == "error":
        raise ScoreError(
            f"{hyp.path}:{hyps[unknown[0]].line}: found {unknown[0]!r} ({len(unknown)} such), which is not "
            f"in {ref.path}; expected only utterances of the reference (--extra ignore leaves them out)"
        )
    if utt2spk is not None:
        for name, utterance in refs.items():
            if name not in utt2spk:
                raise malformed(ref.path, utterance.line, name, "an utterance that utt2spk gives a speaker")
        speakers = {name: utt2spk[name] for name in refs}
    else:
        speakers = {
            name: utterance.speaker for name, utterance in refs.items() if utterance.speaker is not None
        }
    return Matched(
        refs={name: utterance.text for name, utterance in refs.items()},
        hyps={name: hyps[name].text if name in hyps else "" for name in refs},
        speakers=speakers,
        missing=len(lost),
        extra=len(unknown),
        untranscribed=len(all_refs) - len(refs),
        guessed={side.path: side.format for side in (ref, hyp) if side.guessed},
    )


def _with_text(utterances: Mapping[str, Utterance]) -> dict[str, Utterance]:
    return {name: utterance for name, utterance in utterances.items() if utterance.text is not None}


def _common_units(ref: Transcripts, hyp: Transcripts) -> tuple[dict[str, Utterance], dict[str, Utterance]]:
    if ref.format == "stm" and hyp.format == "ctm":
        return _by_segment(ref, hyp)
    if not ref.timed and not hyp.timed:
        return ref.utterances, hyp.utterances
    for piece in ref.pieces:
        if piece.ignored:
            expected = "a CTM hypothesis, whose words have times, for a reference with ignored segments"
            raise malformed(ref.path, piece.line, piece.text, f"{expected} (it is {hyp.format})")
    channels: dict[str, set[str]] = {}
    for piece in [*ref.pieces, *hyp.pieces]:
        channels.setdefault(piece.recording, set()).add(piece.channel)
    return _by_recording(ref, channels), _by_recording(hyp, channels)


def _by_recording(transcripts: Transcripts, channels: dict[str, set[str]]) -> dict[str, Utterance]:
    """One text for each recording (and channel, where it has several), pieces in order of time."""
    if not transcripts.timed:
        return transcripts.utterances
    joined = {}
    for (recording, channel), pieces in _grouped(transcripts.pieces).items():
        name = f"{recording}-{channel}" if len(channels[recording]) > 1 else recording
        speakers = {piece.speaker for piece in pieces}
        speaker = speakers.pop() if len(speakers) == 1 else None
        text = " ".join(piece.text for piece in pieces if piece.text)
        joined[name] = Utterance(text, speaker, min(piece.line for piece in pieces))
    return joined


def _by_segment(ref: Transcripts, hyp: Transcripts) -> tuple[dict[str, Utterance], dict[str, Utterance]]:
    """Gives each CTM word, as sclite does, to the first STM segment that ends after the word's middle.

    So a word between two segments goes to the later one, and a word behind the last segment to the last.
    Words that fall to an ignored segment are dropped with it. Segments of a recording and channel that the
    CTM does not name have no hypothesis; words of one that the STM does not name are an extra hypothesis.
    """
    segments = _grouped(ref.pieces)
    words = _grouped(hyp.pieces)
    refs: dict[str, Utterance] = {}
    hyps: dict[str, Utterance] = {}
    for key, pieces in segments.items():
        names = [_segment_id(piece) for piece in pieces]
        texts: list[list[str]] = [[] for _ in pieces]
        # The running maximum gives the first segment that ends after a time even where segments overlap.
        ends = np.maximum.accumulate([piece.end for piece in pieces])
        spoken = words.pop(key, None)
        for word in spoken or ():
            first = np.searchsorted(ends, (word.start + word.end) / 2, side="right")
            texts[min(int(first), len(pieces) - 1)].append(word.text)
        for name, piece, text in zip(names, pieces, texts, strict=True):
            if piece.ignored:
                continue
            if name in refs:
                raise malformed(ref.path, piece.line, f"the segment {name} again", "every segment once")
            refs[name] = Utterance(piece.text, piece.speaker, piece.line)
            if spoken is not None:
                hyps[name] = Utterance(" ".join(text), None, spoken[0].line)
    for (recording, channel), rest in words.items():
        hyps[f"{recording} channel {channel}"] = Utterance("", None, rest[0].line)
    return refs, hyps


def _grouped(pieces: Iterable[Piece]) -> dict[tuple[str, str], list[Piece]]:
    """(recording, channel) -> its pieces in order of time."""
    groups: dict[tuple[str, str], list[Piece]] = {}
    for piece in pieces:
        groups.setdefault((piece.recording, piece.channel), []).append(piece)
    return {key: sorted(group, key=lambda piece: piece.start) for key, group in groups.items()}


def _segment_id(piece: Piece) -> str:
    times = f"{1000 * piece.start:08.0f}-{1000 * piece.end:08.0f}"
    return f"{piece.speaker}-{piece.recording}-{piece.channel}-{times}"


def normalise(text: str, lower: bool, remove_punctuation: bool) -> str:
    """Lower-cases a text and removes its punctuation, where asked.

    Punctuation is what Unicode calls so (categories P*); it parts words, but for the apostrophe between
    letters, which stays (don't, l'altra), written "'".
    """
    if lower:
        text = text.lower()
    if remove_punctuation:
        text = APOSTROPHE.sub("'", text)
        text = "".join(
            " " if unicodedata.category(char).startswith("P") and not APOSTROPHE.match(text, place) else char
            for place, char in enumerate(text)
        )
    return " ".join(text.split())
