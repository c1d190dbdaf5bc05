"""The check of the fault tests can itself fail."""

import pytest

from tests.faults.harness import Fault, Result, flaws

FAULT = Fault("fault", "score wer", "no such")
LINE = "score wer: error: x: no such file\n"


def test_a_good_refusal_has_no_flaws() -> None:
    assert flaws(Result(2, "", LINE), FAULT) == []
    assert flaws(Result(2, "", f"usage: score wer\n  more of it\n{LINE}"), FAULT) == []


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (Result(1, "", LINE), "exit code 2"),
        (Result(2, "", LINE + LINE), "one line"),
        (Result(2, LINE, ""), "one line"),
        (Result(2, "", LINE + "  Traceback"), "no traceback"),
        (Result(2, "", LINE.removeprefix("score wer: error: ")), "the command"),
        (Result(2, "", LINE.replace("such", "other")), "no such"),
        (Result(2, "", LINE.replace("x", "x" * 600)), "less than 600 characters"),
    ],
)
def test_every_flaw_is_found(result: Result, expected: str) -> None:
    assert any(flaw.startswith(f"expected {expected}, found") for flaw in flaws(result, FAULT))
