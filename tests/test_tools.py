"""The scripts in tools/ that no recipe runs."""

import json
import subprocess
import sys


def test_the_benchmark_of_large_manifests_reads_what_it_writes(root, tmp_path):
    command = [
        "--cuts",
        "400",
        "--batches",
        "5",
        "--folder",
        str(tmp_path),
        "--json",
        str(tmp_path / "figures.json"),
    ]
    subprocess.run([sys.executable, root / "tools" / "bench_manifest.py", *command], check=True)
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["cuts"] == 400 and figures["batches"] == 5
    assert 0 < figures["peak_memory_at_first_batch"] <= figures["peak_memory_bytes"]
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]
