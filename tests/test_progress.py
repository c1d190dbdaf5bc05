"""Progress lines."""

import io
import sys

import pytest

from toolkit.progress import clock, line, progress


def test_items_pass_through_and_lines_come_where_no_terminal_is(monkeypatch, capsys):
    assert list(progress(iter("abc"), 3, "count", every=0)) == ["a", "b", "c"]
    lines = capsys.readouterr().err.splitlines()
    assert [text.split(" 0:00")[0] for text in lines] == [
        "count [######..............] 1/3",
        "count [#############.......] 2/3",
        "count [####################] 3/3",
        "count [####################] 3/3",
    ]
    assert lines[-1].endswith(" done")


def test_a_short_task_prints_nothing_where_no_terminal_is(capsys):
    assert list(progress([1, 2], 2, "count")) == [1, 2]
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_one_line_that_is_redrawn(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    assert list(progress([], 0, "count")) == []
    assert sys.stderr.getvalue() == "\r\033[Kcount: 0 in 0:00 done\n"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("x", 0, 10, 5), "x [....................] 0/10 0:05 ETA ?"),
        (("x", 5, 10, 60), "x [##########..........] 5/10 1:00 ETA 1:00"),
        (("x", 7, None, 61), "x: 7 in 1:01"),
    ],
)
def test_line(arguments, expected):
    assert line(*arguments) == expected


def test_clock():
    assert [clock(seconds) for seconds in (0, 59.9, 61, 3600, 36061)] == [
        "0:00",
        "0:59",
        "1:01",
        "1:00:00",
        "10:01:01",
    ]
