"""tools/error_rates.py, tools/cuts.py and tools/beside.sh."""

import subprocess
import sys
from pathlib import Path

import pytest
from lhotse import Recording, RecordingSet, SupervisionSegment, SupervisionSet

from toolkit.data.manifests import open_cuts, write_cuts
from toolkit.data.synthetic import synthetic_cuts


def tool(root: Path, name: str, *arguments: object) -> str:
    """Runs a script of tools/; what it printed."""
    command = [sys.executable, root / "tools" / name, *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode in (0, 1, 2), done.stdout
    return done.stdout


def test_a_table_of_error_rates(root, tmp_path):
    cuts = list(synthetic_cuts(3, folder=tmp_path / "audio"))
    write_cuts(tmp_path / "cuts_easy.jsonl.gz", cuts)
    arguments = [
        "--exp",
        tmp_path / "exp",
        "--data",
        tmp_path,
        "--sets",
        "easy",
        "--out",
        tmp_path / "table.md",
    ]
    assert "found no texts" in tool(root, "error_rates.py", *arguments)
    right = [f"{cut.id} {cut.supervisions[0].text}\n" for cut in cuts]
    empty = [f"{cut.id}\n" for cut in cuts]
    for place, lines in (("decode/easy/greedy", right), ("stream/easy/greedy", empty)):
        folder = tmp_path / "exp" / place
        folder.mkdir(parents=True)
        (folder / "text").write_text("".join(lines))
    printed = tool(root, "error_rates.py", *arguments, "--metric", "cer")
    assert (tmp_path / "table.md").read_text() == printed
    assert printed.startswith("CER in per cent") and "| search | easy |" in printed
    assert "| greedy | 0.00 (0.00 to 0.00) |" in printed and "| greedy, streaming | 100.00 (" in printed
    assert (tmp_path / "exp/decode/easy/greedy/wer.json").exists()


@pytest.fixture
def manifests(tmp_path):
    """A folder as lhotse prepare leaves it, of twelve recordings."""
    names = [f"utterance-{index:02d}" for index in range(12)]
    recordings = RecordingSet.from_recordings(Recording(name, [], 16000, 16000, 1.0) for name in names)
    segments = SupervisionSet.from_segments(
        SupervisionSegment(name, name, 0.0, 1.0, text="a", language="English") for name in names
    )
    recordings.to_file(tmp_path / "corpus_recordings_train.jsonl.gz")
    segments.to_file(tmp_path / "corpus_supervisions_train.jsonl.gz")
    return tmp_path


def test_cuts_in_order_and_shuffled(root, manifests):
    out = manifests / "cuts.jsonl.gz"
    arguments = [manifests, "--corpus", "corpus", "--language", "en", "--out", out, "--parts", "train"]
    assert "12 cuts" in tool(root, "cuts.py", *arguments)
    ids = [cut.id for cut in open_cuts(out)]
    assert ids == sorted(ids) and {cut.supervisions[0].language for cut in open_cuts(out)} == {"en"}
    tool(root, "cuts.py", *arguments, "--shuffle")
    first = [cut.id for cut in open_cuts(out)]
    tool(root, "cuts.py", *arguments, "--shuffle")
    assert [cut.id for cut in open_cuts(out)] == first != ids and sorted(first) == ids
    assert "corpus_recordings_test.jsonl.gz: no such file" in tool(root, "cuts.py", *arguments[:-1], "test")


def beside(root: Path, *lines: str) -> subprocess.CompletedProcess:
    """Runs lines as a stage of a recipe does."""
    script = "\n".join(["set -euo pipefail", ". tools/beside.sh", *lines])
    return subprocess.run(["bash", "-c", script], cwd=root, capture_output=True, text=True, timeout=50)


def test_commands_beside_each_other_are_waited_for(root):
    first = "beside one sh -c 'sleep 1; echo late; echo threads $OMP_NUM_THREADS >&2'"
    done = beside(root, first, "beside two echo early", "wait_for_all")
    assert done.returncode == 0
    assert sorted(done.stdout.splitlines()) == ["one: late", "one: threads 1", "two: early"]


def test_a_command_that_fails_ends_those_beside_it(root):
    """Else what is printed would not end before `beside` loses patience."""
    lines = ["beside bad sh -c 'sleep 1; exit 3'", "beside long sleep 600"]
    done = beside(root, *lines, "wait_for_all", "echo after")
    assert (done.returncode, done.stdout) == (3, "")
