"""DER against meeteval's md-eval and dscore, JER against dscore, borders of the definitions by hand."""

import json
import shutil
from collections import Counter

import numpy as np
import pytest

from tests.score.der_cases import NUM_CASES, REFERENCE, Case, Segments, make_case, md_eval_figures
from toolkit.score import ScoreError, der
from toolkit.score.formats import Turn

FIGURES = [json.loads(line) for line in REFERENCE.read_text(encoding="utf-8").splitlines()]


def turns(side: dict[str, Segments]) -> dict[str, list[Turn]]:
    return {name: [Turn(a / 1000, b / 1000, speaker) for a, b, speaker in side[name]] for name in side}


def scored(case: Case, extent: str) -> der.DerResult:
    uem = case.uem and {name: [(a / 1000, b / 1000) for a, b in case.uem[name]] for name in case.uem}
    return der.score(
        turns(case.ref), turns(case.hyp), uem, case.collar, case.skip_overlap, extent, replications=1
    )


def parts(result: der.DerResult) -> dict[str, list[float]]:
    return {r.name: [r.scored, r.missed, r.false_alarm, r.confusion] for r in result.recordings}


@pytest.mark.parametrize(("program", "extent"), [("md_eval", "reference"), ("dscore", "both")])
def test_der_equals_recorded_figures(program: str, extent: str) -> None:
    for figures in FIGURES:
        result = scored(make_case(figures["seed"]), extent)
        for name, values in parts(result).items():
            assert values == pytest.approx(figures[program][name], abs=1e-6), (figures["seed"], name)
        rates = np.sum(list(figures[program].values()), axis=0)
        assert result.der == pytest.approx(sum(rates[1:]) / rates[0], abs=1e-6)


def test_jer_equals_recorded_figures() -> None:
    for figures in FIGURES:
        result = scored(make_case(figures["seed"]), "both")
        jers = {"": result.jer} | {recording.name: recording.jer for recording in result.recordings}
        assert jers == pytest.approx(figures["jer"], abs=1e-6), figures["seed"]


def test_recorded_cases_have_what_is_hard() -> None:
    cases = [make_case(figures["seed"]) for figures in FIGURES]
    seen: Counter[str] = Counter()
    for case in cases:
        seen["skip_overlap"] += case.skip_overlap
        seen["collar"] += case.collar > 0
        seen["uem"] += case.uem is not None
        seen["no hypothesis"] += len(case.hyp) < len(case.ref)
        for segments in case.ref.values():
            ordered = sorted(segments)
            pairs = [(a, b) for i, a in enumerate(ordered) for b in ordered[i + 1 :] if b[0] < a[1]]
            seen["overlap"] += any(a[2] != b[2] for a, b in pairs)
            seen["overlap with oneself"] += any(a[2] == b[2] for a, b in pairs)
            seen["empty segment"] += any(start == end for start, end, _ in segments)
            seen["touching"] += any(a[1] == b[0] for a in segments for b in segments)
    assert len(cases) == NUM_CASES
    assert len(seen) == 8 and min(seen.values()) >= 30, seen


@pytest.mark.slow
def test_der_equals_md_eval_run_now() -> None:
    meeteval = pytest.importorskip("meeteval.der", reason="meeteval is not installed")
    for program in ("perl", "md-eval-22.pl"):
        if not shutil.which(program):
            pytest.skip(
                f"{program} is not on the PATH; it is not on the package index (dscore's repository has it)"
            )
    for seed in range(1000, 1030):
        case = make_case(seed)
        for function, extent in ((meeteval.md_eval_22, "reference"), (meeteval.dscore, "both")):
            expected = md_eval_figures(case, function)
            for name, values in parts(scored(case, extent)).items():
                assert values == pytest.approx(expected[name], abs=1e-6), (seed, name)


def test_parts_of_the_error_by_hand() -> None:
    ref = {"a": [Turn(0, 10, "anna"), Turn(8, 12, "ben")]}
    hyp = {"a": [Turn(1, 9, "1"), Turn(9, 14, "2")]}
    result = der.score(ref, hyp)
    # 0-1 and 8-9 and 9-10 lack a speaker, 12-14 has one too many; 2 is ben.
    assert parts(result) == {"a": [14, 3, 2, 0]}
    assert result.der == pytest.approx(5 / 14)
    assert result.recordings[0].speaker_jers == pytest.approx({"anna": 1 - 8 / 10, "ben": 1 - 3 / 6})
    assert result.recordings[0].timeline.mapping == {"1": "anna", "2": "ben"}
    assert result.to_dict()["recordings"][0]["hyp_speakers"] == 2


def test_collar_and_overlap_leave_jer_alone() -> None:
    ref = {"a": [Turn(0, 10, "anna"), Turn(8, 12, "ben")]}
    hyp = {"a": [Turn(0, 10.2, "1"), Turn(10.2, 12, "2")]}
    plain = der.score(ref, hyp)
    forgiving = der.score(ref, hyp, collar=0.25, skip_overlap=True)
    assert forgiving.total("scored") == pytest.approx(7.75 - 0.25 + 11.75 - 10.25)
    assert forgiving.der == 0 < plain.der
    assert forgiving.jer == plain.jer


def test_overlap_up_to_the_edge_of_a_region_is_left_out() -> None:
    """Here md-eval scores 2 to 5, as region and overlap start together; the definition does not."""
    ref = {"a": [Turn(2, 8, "anna"), Turn(2, 8, "ben"), Turn(8, 9, "anna")]}
    result = der.score(ref, {"a": [Turn(8, 9, "1")]}, uem={"a": [(2, 5), (7, 9)]}, skip_overlap=True)
    assert parts(result) == {"a": [1, 0, 0, 0]}


def test_what_is_scored_without_a_uem() -> None:
    ref, hyp = {"a": [Turn(5, 10, "anna")]}, {"a": [Turn(0, 12, "1")]}
    assert der.score(ref, hyp).der == pytest.approx(7 / 5)
    assert der.score(ref, hyp, extent="reference").der == 0
    assert der.score(ref, hyp, uem={"a": [(4, 11)]}).der == pytest.approx(2 / 5)
    # Regions of a UEM may overlap: what both cover is scored once.
    assert der.score(ref, hyp, uem={"a": [(4, 9), (8, 11)]}).der == pytest.approx(2 / 5)
    assert der.score(ref | {"b": ref["a"]}, hyp, uem={"a": [(4, 11)]}).outside_uem == 1


def test_rounding_errors_are_no_speech() -> None:
    """0.1 + 0.2 lies behind 0.3, where the region begins; ben is not a speaker there."""
    ref = {"a": [Turn(0.1, 0.1 + 0.2, "ben"), Turn(0.3, 1, "anna")]}
    result = der.score(ref, {"a": [Turn(0.3, 1, "1")]}, uem={"a": [(0.3, 1.0)]})
    assert parts(result) == {"a": [pytest.approx(0.7), 0, 0, 0]}
    assert result.jer == 0 and result.recordings[0].ref_speakers == 1


def test_recordings_without_speech() -> None:
    ref = {"a": [Turn(0, 4, "anna")], "b": [Turn(0, 4, "ben")]}
    hyp = {"a": [Turn(0, 4, "1")], "c": [Turn(0, 2, "1")]}
    uem = {name: [(0.0, 4.0)] for name in "abcd"}
    result = der.score(ref, hyp, uem)
    assert parts(result) == {"a": [4, 0, 0, 0], "b": [4, 4, 0, 0], "c": [0, 0, 2, 0], "d": [0, 0, 0, 0]}
    assert [recording.jer for recording in result.recordings] == [0, 1, 1, 0]
    assert result.der == pytest.approx(6 / 8) and result.jer == 0.5  # JER: over reference speakers
    rows = {row["recording"]: row["der"] for row in result.to_dict()["recordings"]}
    assert rows == {"a": 0.0, "b": 1.0, "c": None, "d": None}
    assert result.without_hypothesis == 2


def test_confusion_within_one_recording() -> None:
    ref = {"a": [Turn(0, 6, "anna"), Turn(6, 10, "ben")]}
    result = der.score(ref, {"a": [Turn(0, 10, "1")]})
    assert parts(result) == {"a": [10, 0, 0, 4]}
    assert list(result.details())[1:] == [
        "a 0.000000 6.000000 anna 1=anna 1 0 0 0",
        "a 6.000000 10.000000 ben 1=anna 1 0 0 1",
    ]
    assert result.to_dict()["der_low"] is None  # one recording says nothing about others


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"collar": -0.1}, "collar -0.1"),
        ({"extent": "all"}, "extent 'all'"),
        ({"uem": {"a": [(20.0, 30.0)]}}, "no reference speech to score"),
        ({"hyp": {"b": [Turn(0, 1, "1")]}}, "recording 'b'"),
        ({"hyp": {"b": [Turn(0, 1, "1")]}, "uem": {"a": [(0.0, 4.0)]}}, "recording 'b'"),
    ],
)
def test_impossible_requests_are_refused(options: dict, message: str) -> None:
    ref = {"a": [Turn(0, 4, "anna")]}
    with pytest.raises(ScoreError, match=message):
        der.score(**({"ref": ref, "hyp": ref} | options))
