"""The tables that the scoring commands print, in plain text."""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from toolkit.score.der import DerResult
    from toolkit.score.eer import EerResult
    from toolkit.score.matching import Matched
    from toolkit.score.wer import Comparison, Counts, WerResult


def percent(rate: float, digits: int = 2) -> str:
    """A rate as a percentage, "-" where it is not defined."""
    return "-" if math.isnan(rate) else f"{100 * rate:.{digits}f}"


def aligned(header: Sequence[str], rows: Sequence[Sequence[object]], left: int = 1) -> str:
    """Lays out rows in columns: the first `left` columns to the left, the others (figures) to the right."""
    cells = [list(header)] + [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    )


def wer_table(
    result: "WerResult",
    matched: "Matched",
    comparison: "Comparison | None" = None,
    baseline: "Matched | None" = None,
    top: int = 10,
) -> str:
    """Error rates, the comparison with a baseline, speakers, and the most frequent errors.

    Args:
        matched, baseline: how the hypothesis of the system and of the baseline met the reference.
    """

    def row(name: str, interval: tuple[float, float], counts: "Counts") -> list[object]:
        low, high = interval
        parts = (counts.length, counts.hits, counts.substitutions, counts.deletions, counts.insertions)
        return [name, percent(counts.rate), f"{percent(low)} to {percent(high)}", *parts]

    header = ["", "%", "95 % interval", "number", "correct", "sub", "del", "ins"]
    wer = row("WER (words)", result.wer_interval, result.words)
    cer = row("CER (characters)", result.cer_interval, result.characters)
    number = len(result.utterances)
    blocks = [
        aligned(header, [wer, cer]),
        f"{number} utterances, {result.sentence_errors} with errors "
        f"({percent(result.sentence_errors / number)} %); bootstrap over utterances, "
        f"{result.replications} draws, seed {result.seed}",
    ]
    guessed = matched.guessed | (baseline.guessed if baseline else {})
    if guessed:
        formats = ", ".join(f"{path} is {format}" for path, format in guessed.items())
        blocks.append(f"format told by the content: {formats}")
    if matched.untranscribed:
        blocks.append(f"cuts of the reference without a text, left out: {matched.untranscribed}")
    blocks += _unmatched(matched)
    if comparison:
        low, high = comparison.baseline.wer_interval
        blocks.append(
            f"baseline WER {percent(comparison.baseline.wer)} % ({percent(low)} to {percent(high)}); "
            f"difference {100 * comparison.difference:+.2f} % "
            f"({100 * comparison.low:+.2f} to {100 * comparison.high:+.2f})\n"
            f"paired bootstrap: better on {percent(comparison.probability_of_improvement)} % of the draws, "
            f"p = {comparison.p_one_sided:.4g} one-sided, {comparison.p_two_sided:.4g} two-sided"
        )
    if baseline:
        blocks += [f"baseline: {line}" for line in _unmatched(baseline)]
    if speakers := result.speakers():
        rows = [
            [name, number, c.length, percent(c.rate), c.substitutions, c.deletions, c.insertions]
            for name, (number, c) in speakers.items()
        ]
        blocks.append(aligned(["speaker", "utterances", "words", "WER %", "sub", "del", "ins"], rows))
    for title, letter, shown in (
        ("substitutions", "S", "{0} -> {1}"),
        ("deletions", "D", "{0}"),
        ("insertions", "I", "{1}"),
    ):
        if frequent := result.confusions(letter, top):
            rows = [[shown.format(ref, hyp), count] for ref, hyp, count in frequent]
            blocks.append(aligned([f"most frequent {title}", "count"], rows))
    return "\n\n".join(blocks)


def _unmatched(matched: "Matched") -> Iterator[str]:
    if matched.missing:
        yield f"utterances without a hypothesis, their words counted as deleted: {matched.missing}"
    if matched.extra:
        yield f"hypotheses without a reference, left out: {matched.extra}"


def eer_table(result: "EerResult") -> str:
    """EER, the detection cost at each prior, and Cllr."""
    low, high = result.eer_interval
    rows: list[list[object]] = [
        [
            "EER %",
            percent(result.eer, 3),
            f"{result.threshold:.4f}",
            f"{percent(low, 3)} to {percent(high, 3)}",
        ]
    ]
    for cost in result.costs:
        errors = f"{cost.misses} misses, {cost.false_alarms} false alarms"
        rows.append([f"minDCF p={cost.p_target:g}", f"{cost.minimum:.4f}", f"{cost.threshold:.4f}", errors])
    rows.extend([f"actDCF p={cost.p_target:g}", f"{cost.actual:.4f}", "", ""] for cost in result.costs)
    rows.append(["Cllr", f"{result.cllr:.4f}", "", ""])
    rows.append(["minCllr", f"{result.cllr_min:.4f}", "", ""])
    return "\n\n".join(
        [
            aligned(["", "", "threshold", "95 % interval / errors"], rows),
            f"{result.targets} target and {result.nontargets} nontarget trials; "
            f"c_miss {result.c_miss:g}, c_fa {result.c_fa:g}; "
            f"bootstrap over {result.unit}, {result.replications} draws, seed {result.seed}\n"
            "actDCF and Cllr take the scores as natural log-likelihood ratios",
        ]
    )


def der_table(result: "DerResult") -> str:
    """DER with its parts and JER, for each recording and overall."""

    def row(
        name: str, der: float, jer: float, scored: float, parts: Sequence[float], speakers: str
    ) -> list[object]:
        shares = [percent(part / scored) if scored else "-" for part in parts]
        return [name, percent(der), *shares, percent(jer), f"{scored:.2f}", speakers]

    parts = ("missed", "false_alarm", "confusion")
    rows = [
        row(
            r.name,
            r.der,
            r.jer,
            r.scored,
            [getattr(r, part) for part in parts],
            f"{r.ref_speakers}/{r.hyp_speakers}",
        )
        for r in result.recordings
    ]
    totals = [result.total(part) for part in parts]
    rows.append(row("overall", result.der, result.jer, result.total("scored"), totals, ""))
    low, high = result.der_interval
    interval = "" if math.isnan(low) else f"; 95 % interval {percent(low)} to {percent(high)} over recordings"
    overlap = "not scored" if result.skip_overlap else "scored"
    header = [
        "recording",
        "DER %",
        "miss",
        "false alarm",
        "confusion",
        "JER %",
        "speaker time s",
        "speakers ref/hyp",
    ]
    blocks = [
        aligned(header, rows),
        f"collar {result.collar:g} s on each side, overlap {overlap}, "
        f"scored regions: {result.extent}{interval}",
    ]
    if result.outside_uem:
        blocks.append(
            f"recordings of the reference that the UEM does not name, not scored: {result.outside_uem}"
        )
    if result.without_hypothesis:
        blocks.append(
            f"recordings without a hypothesis, their speech counted as missed: {result.without_hypothesis}"
        )
    return "\n\n".join(blocks)
