"""Words with times as other programs read them: CTM, JSON, subtitles (SRT, WebVTT), Praat's TextGrid.

All times in here are seconds from the start of the recording.
"""

import json
import math
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from toolkit.decode.hypothesis import Word

SHORTEST = 0.001
"""Seconds that anything lasts at least, so that no interval is empty when rounded."""


class Cue(NamedTuple):
    """What a subtitle shows, and when."""

    start: float
    end: float
    lines: list[str]


def ctm_line(name: str, word: Word) -> str:
    """A line of a CTM file, without its end: recording, channel, start, duration, word, confidence.

    >>> ctm_line("talk", Word("yes", 0.4, 0.6, 0.0))
    'talk 1 0.400 0.200 yes 1.0000'
    """
    return f"{name} 1 {word.start:.3f} {word.end - word.start:.3f} {word.text} {math.exp(word.score):.4f}"


def json_line(name: str, text: str, words: Iterable[Word], tokens: Iterable[Word] = ()) -> str:
    """One JSON object: id, text, and words and tokens as lists of text, start, end and confidence."""
    timed = {
        kind: [
            {
                "text": item.text,
                "start": round(item.start, 3),
                "end": round(item.end, 3),
                "confidence": round(math.exp(item.score), 4),
            }
            for item in items
        ]
        for kind, items in (("words", words), ("tokens", tokens))
    }
    return json.dumps({"id": name, "text": text, **timed}, ensure_ascii=False)


def cues(
    words: Sequence[Word],
    pause: float = 0.8,
    max_seconds: float = 7.0,
    max_characters: int = 42,
    max_lines: int = 2,
) -> list[Cue]:
    """Splits words into subtitles: at pauses, and where one would be too long or stay too long.

    Args:
        words: in order.
        pause: seconds without a word that begin a new subtitle.
        max_seconds: that a subtitle lasts, unless it is a single word.
        max_characters: of a line, unless it is a single word.
        max_lines: of a subtitle.
    """
    found: list[Cue] = []
    for start, end, text in _apart(words):
        last = found[-1] if found else None
        if last and start - last.end < pause and end - last.start <= max_seconds:
            longer = _append(last.lines[-1], text)
            if len(longer) <= max_characters:
                found[-1] = Cue(last.start, end, [*last.lines[:-1], longer])
                continue
            if len(last.lines) < max_lines:
                found[-1] = Cue(last.start, end, [*last.lines, text])
                continue
        found.append(Cue(start, end, [text]))
    return found


def srt(words: Sequence[Word]) -> str:
    """Subtitles as SubRip has them."""
    blocks = [
        "\n".join([str(number), f"{_clock(cue.start, ',')} --> {_clock(cue.end, ',')}", *cue.lines, ""])
        for number, cue in enumerate(cues(words), 1)
    ]
    return "\n".join(blocks)


def vtt(words: Sequence[Word]) -> str:
    """Subtitles as WebVTT."""
    blocks = ["WEBVTT\n"]
    for cue in cues(words):
        lines = [line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") for line in cue.lines]
        blocks.append("\n".join([f"{_clock(cue.start, '.')} --> {_clock(cue.end, '.')}", *lines, ""]))
    return "\n".join(blocks)


def textgrid(words: Sequence[Word], tokens: Sequence[Word], duration: float = 0.0) -> str:
    """Tiers of words and tokens in Praat's long text format; what lies between them has empty labels.

    Args:
        words: in order.
        tokens: in order.
        duration: of the recording; the grid ends there, or with the last word or token if that is later.
    """
    tiers = {"words": _intervals(words), "tokens": _intervals(tokens)}
    ends = [intervals[-1][1] for intervals in tiers.values() if intervals]
    total = max([round(duration, 3), SHORTEST, *ends])
    lines = [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        "xmin = 0",
        f"xmax = {total:.3f}",
        "tiers? <exists>",
        f"size = {len(tiers)}",
        "item []:",
    ]
    for number, (name, intervals) in enumerate(tiers.items(), 1):
        begin = intervals[-1][1] if intervals else 0.0
        if begin < total:
            intervals = [*intervals, (begin, total, "")]
        lines += [
            f"    item [{number}]:",
            '        class = "IntervalTier"',
            f'        name = "{name}"',
            "        xmin = 0",
            f"        xmax = {total:.3f}",
            f"        intervals: size = {len(intervals)}",
        ]
        for place, (start, end, text) in enumerate(intervals, 1):
            quoted = text.replace('"', '""')
            lines += [
                f"        intervals [{place}]:",
                f"            xmin = {start:.3f}",
                f"            xmax = {end:.3f}",
                f'            text = "{quoted}"',
            ]
    return "\n".join(lines) + "\n"


def _intervals(words: Sequence[Word]) -> list[tuple[float, float, str]]:
    """Start, end, label of each word and of each gap before one; they touch, and none is empty."""
    found: list[tuple[float, float, str]] = []
    now = 0.0
    for start, end, text in _apart(words):
        if start > now:
            found.append((now, start, ""))
        found.append((start, end, text))
        now = end
    return found


def _apart(words: Iterable[Word]) -> Iterator[tuple[float, float, str]]:
    """Start, end, text of words, which neither overlap nor last no time, in whole milliseconds."""
    now = 0.0
    for word in words:
        start = max(round(word.start, 3), now)
        now = round(max(word.end, start + SHORTEST), 3)
        yield start, now, word.text


def _append(line: str, word: str) -> str:
    """A line with one more word, after a space unless it is written without (Chinese, Japanese)."""
    return line + word if spaceless(line[-1:]) and spaceless(word[:1]) else f"{line} {word}"


def separated(text: str) -> str:
    """Text with spaces around every character of a writing that has none, so that words can be counted.

    >>> separated("今天ok").split()
    ['今', '天', 'ok']
    """
    return "".join(f" {character} " if spaceless(character) else character for character in text)


def spaceless(character: str) -> bool:
    """Whether a character is of a writing that puts no spaces between words.

    >>> spaceless("语"), spaceless("a"), spaceless("")
    (True, False, False)
    """
    name = unicodedata.name(character, "") if character else ""
    return name.startswith(("CJK UNIFIED IDEOGRAPH", "HIRAGANA", "KATAKANA"))


def _clock(seconds: float, mark: str) -> str:
    """Hours, minutes, seconds, and milliseconds after `mark`."""
    total, milliseconds = divmod(round(seconds * 1000), 1000)
    minutes, seconds = divmod(total, 60)
    return f"{minutes // 60:02}:{minutes % 60:02}:{seconds:02}{mark}{milliseconds:03}"
