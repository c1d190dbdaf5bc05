"""recogs, errs and wer-summary: the forms that icefall's users know, worked out by hand."""

import ast

from toolkit.score import icefall, wer

REFS = {"a-1": "the cat sat on the mat", "a-2": "it is here", "a-3": "no"}
HYPS = {"a-1": "the cat sits on mat", "a-2": "it is here now", "a-3": ""}


def result():
    return wer.score(REFS, HYPS, replications=0)


def test_recogs_hold_both_sides_as_lists():
    rows = [line.split("\t") for line in icefall.recogs(result())]
    assert [row[0] for row in rows] == ["a-1:", "a-1:", "a-2:", "a-2:", "a-3:", "a-3:"]
    sides = [dict([row[1].split("=", 1)]) for row in rows]
    assert [ast.literal_eval(side["ref"]) for side in sides[::2]] == [ref.split() for ref in REFS.values()]
    assert [ast.literal_eval(side["hyp"]) for side in sides[1::2]] == [hyp.split() for hyp in HYPS.values()]


def test_errs_by_hand():
    text = "\n".join(icefall.errs(result()))
    head, *sections = text.split("\n\n")
    assert head.splitlines()[:2] == [
        "%WER = 40.00",
        "Errors: 1 insertions, 2 deletions, 1 substitutions, over 10 reference words (7 correct)",
    ]
    assert [section.splitlines() for section in sections] == [
        [
            "PER-UTT DETAILS: corr or (ref->hyp)  ",
            "a-1:\tthe cat (sat->sits) on (the->*) mat",
            "a-2:\tit is here (*->now)",
            "a-3:\t(no->*)",
        ],
        ["SUBSTITUTIONS: count ref -> hyp", "1   sat -> sits"],
        ["DELETIONS: count ref", "1   no", "1   the"],
        ["INSERTIONS: count hyp", "1   now"],
        [
            "PER-WORD STATS: word  corr tot_errs count_in_ref count_in_hyp",
            "no   0 1 1 0",
            "now   0 1 0 1",
            "sat   0 1 1 0",
            "sits   0 1 0 1",
            "the   1 1 2 1",
            "cat   1 0 1 1",
            "here   1 0 1 1",
            "is   1 0 1 1",
            "it   1 0 1 1",
            "mat   1 0 1 1",
            "on   1 0 1 1",
        ],
    ]


def test_errors_in_a_row_are_one():
    found = wer.score({"x": "a b c d"}, {"x": "a e f g d"}, replications=0)
    (line,) = [line for line in icefall.errs(found) if line.startswith("x:")]
    assert line == "x:\ta (b c->e f g) d"


def test_the_summary_has_the_best_first():
    worse = wer.score(REFS, dict.fromkeys(REFS, ""), replications=0)
    assert list(icefall.summary({"bad": worse, "good": result()})) == [
        "settings\tWER",
        "good\t40.00",
        "bad\t100.00",
    ]
