"""Metrics and lists that survive the death of the process."""

import json

import pytest
import torch

from toolkit.train.distributed import World
from toolkit.train.log import Log, Meter, bar, whole_rows

WORLD = World(0, 1, torch.device("cpu"))


def test_lines_that_were_not_finished_are_left_out(tmp_path):
    path = tmp_path / "rows.jsonl"
    assert whole_rows(path) == []
    for content, count in (('{"a": 1}\n{"a": 2}\n', 2), ('{"a": 1}\n{"a": 2', 1), ('{"a"', 0), ("", 0)):
        path.write_text(content)
        assert whole_rows(path) == [{"a": 1}, {"a": 2}][:count]
    path.write_bytes('{"a": "ä"}\n{"a": "ä'.encode()[:-1])
    assert whole_rows(path) == [{"a": "ä"}]


def test_what_will_be_done_again_is_forgotten(tmp_path):
    rows = [{"step": step, "split": "train", "loss": 1.5} for step in (10, 20, 20, 30)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 4')
    (tmp_path / "skipped.jsonl").write_text('{"id": "a", "path": "", "reason": "x"}\n{"id": "b"')
    log = Log(tmp_path, WORLD, update=20)
    log.skip([{"id": name, "path": "", "reason": "empty: no samples"} for name in "ab"])
    log.skip([{"id": "b", "path": "", "reason": "empty: no samples"}])
    log.metrics({"step": 21, "split": "train", "loss": 0.5, "lr": None})
    log.close()
    assert [row["step"] for row in whole_rows(tmp_path / "metrics.jsonl")] == [10, 20, 20, 21]
    assert [row["id"] for row in whole_rows(tmp_path / "skipped.jsonl")] == ["a", "b"]


def test_what_several_processes_skip_is_listed_once(tmp_path, capsys):
    """Also if a file that was written before names a recording twice."""
    row = {"path": "", "reason": "empty: no samples"}
    (tmp_path / "skipped.jsonl").write_text(2 * (json.dumps({"id": "a"} | row) + "\n"))
    logs = [Log(tmp_path, World(rank, 2, torch.device("cpu")), update=0) for rank in range(2)]
    for rank, name in (
        (1, "b"),
        (0, "a"),
        (0, "b"),
        (0, "ä"),
        (1, "ä"),
        (1, "c"),
        (0, "c"),
        (0, "d"),
        (0, "e"),
    ):
        logs[rank].skip([{"id": name} | row])
    for log in logs:
        log.skip([])
        log.close()
    assert [found["id"] for found in whole_rows(tmp_path / "skipped.jsonl")] == ["a", "b", "ä", "c", "d", "e"]
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[1:] for line in said] == [
        f"{name}: empty: no samples ({count} so far, see skipped.jsonl)".split()
        for name, count in (("ä", 3), ("e", 6))
    ]


def test_meter_divides_sums_by_the_weight():
    meter = Meter()
    for weight in (1.0, 3.0):
        meter.add({"loss": torch.tensor(2 * weight), "weight": weight, "amount": 5.0})
    meter.add({"right": torch.tensor(2)})
    assert meter.means(WORLD) == {"amount": 10.0, "loss": 2.0, "right": 0.5}
    meter.add({"loss": 0.0, "weight": 0.0})
    assert meter.means(WORLD) == {"loss": 0.0}


@pytest.mark.parametrize(
    ("done", "before", "spent", "end"), [(50, 0, 60, "1:00 ETA 1:00"), (100, 50, 60, "ETA 0:00")]
)
def test_eta_comes_from_the_speed_since_this_start(done, before, spent, end):
    assert bar(done, before, 100, spent).endswith(end)
