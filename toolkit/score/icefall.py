"""Hypotheses and errors in the text forms of icefall: recogs, errs and wer-summary."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from toolkit.score.wer import Utterance, WerResult

NOTHING = "*"


def recogs(result: WerResult) -> Iterator[str]:
    """Two lines an utterance: the words of the reference and of the hypothesis, as Python lists."""
    for utterance in result.utterances:
        yield f"{utterance.id}:\tref={utterance.ref}"
        yield f"{utterance.id}:\thyp={utterance.hyp}"


def errs(result: WerResult) -> Iterator[str]:
    """The error rate, each utterance with its errors marked, and counts of every error and word."""
    words = result.words
    yield f"%WER = {100 * result.wer:.2f}"
    yield (
        f"Errors: {words.insertions} insertions, {words.deletions} deletions, {words.substitutions} substitutions, "
        f"over {words.length} reference words ({words.hits} correct)"
    )
    yield (
        "Search below for sections starting with PER-UTT DETAILS:, SUBSTITUTIONS:, DELETIONS:, INSERTIONS:, "
        "PER-WORD STATS:"
    )
    yield ""
    yield "PER-UTT DETAILS: corr or (ref->hyp)  "
    for utterance in result.utterances:
        yield f"{utterance.id}:\t{' '.join(_marked(utterance))}"
    for title, letter in (
        ("SUBSTITUTIONS: count ref -> hyp", "S"),
        ("DELETIONS: count ref", "D"),
        ("INSERTIONS: count hyp", "I"),
    ):
        yield ""
        yield title
        for ref, hyp, count in result.confusions(letter, top=None):
            yield f"{count}   {' -> '.join(word for word in (ref, hyp) if word)}"
    yield ""
    yield "PER-WORD STATS: word  corr tot_errs count_in_ref count_in_hyp"
    yield from _word_stats(result)


def summary(results: Mapping[str, WerResult]) -> Iterator[str]:
    """A head line, then the settings and the error rate in per cent of each method, the best first."""
    yield "settings\tWER"
    for name, result in sorted(results.items(), key=lambda item: item[1].wer):
        yield f"{name}\t{100 * result.wer:.2f}"


def _marked(utterance: Utterance) -> Iterator[str]:
    """The words of an utterance; errors that follow one another are joined to one (ref->hyp)."""
    wrong: list[tuple[str, str]] = []
    for ref, hyp, letter in utterance.columns():
        if letter == "C":
            yield from _error(wrong)
            wrong = []
            yield ref
        else:
            wrong.append((ref, hyp))
    yield from _error(wrong)


def _error(columns: Iterable[tuple[str, str]]) -> Iterator[str]:
    if columns:
        sides = (" ".join(filter(None, words)) or NOTHING for words in zip(*columns, strict=True))
        yield f"({'->'.join(sides)})"


def _word_stats(result: WerResult) -> Iterator[str]:
    hits, wrong = Counter[str](), Counter[str]()
    in_ref, in_hyp = Counter[str](), Counter[str]()
    for utterance in result.utterances:
        in_ref.update(utterance.ref)
        in_hyp.update(utterance.hyp)
        for ref, hyp, letter in utterance.columns():
            if letter == "C":
                hits[ref] += 1
            else:
                wrong.update(filter(None, (ref, hyp)))
    for word in sorted(in_ref | in_hyp, key=lambda word: (-wrong[word], word)):
        yield f"{word}   {hits[word]} {wrong[word]} {in_ref[word]} {in_hyp[word]}"
