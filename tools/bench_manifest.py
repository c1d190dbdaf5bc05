"""Measures how soon a very large manifest yields batches, and in how much memory.

examples:
  python tools/bench_manifest.py      # ten million cuts; some minutes, most of them to write the file
  python tools/bench_manifest.py --cuts 1000000 --batches 5000 --json bench.json

Writes a manifest of made-up cuts (no audio), opens it as training does, and reports the time from before the
imports to the first batch, the batches a second after it, and the peak memory of the whole process.
"""

import argparse
import gzip
import json
import random
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from toolkit.bin import run
from toolkit.files import write_json
from toolkit.progress import progress


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "--cuts", metavar="N", type=int, default=10_000_000, help="cuts to write (%(default)s)"
    )
    command.add_argument(
        "--batches", metavar="N", type=int, default=1000, help="batches to read (%(default)s)"
    )
    command.add_argument(
        "--max-duration", metavar="SECONDS", type=float, default=600.0, help="of a batch (%(default)s)"
    )
    command.add_argument(
        "--folder", metavar="DIR", help="where to write (the system's folder for temporary files)"
    )
    command.add_argument("--json", metavar="FILE", help="write the figures to FILE")
    return command


def main(argv: list[str] | None = None) -> None:
    """Writes the manifest, reads from it, prints the figures."""
    args = parser().parse_args(argv)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path = Path(folder) / "cuts.jsonl.gz"
        write(path, args.cuts)
        figures = {"cuts": args.cuts, "manifest_bytes": path.stat().st_size}
        figures |= read(path, args.max_duration, args.batches)
    figures["peak_memory_bytes"] = peak_memory()
    for name, value in figures.items():
        print(f"{name:<24} {value:,.2f}" if isinstance(value, float) else f"{name:<24} {value:,}")
    if args.json:
        write_json(args.json, figures)


def write(path: Path, count: int) -> None:
    """Writes `count` cuts of 1 to 30 s as JSON lines."""
    # Level 1: the time to unpack, which is what is measured, hardly depends on it.
    with gzip.open(path, "wt", compresslevel=1, encoding="utf-8") as file:
        file.writelines(progress(lines(count), count, "writing"))


def lines(count: int) -> Iterator[str]:
    """The cuts, one JSON object a line, in the form that Lhotse gives them."""
    rng = random.Random(0)
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    for index in range(count):
        name = f"utterance-{index:09d}"
        num_samples = rng.randrange(16_000, 480_000)
        duration = num_samples / 16_000
        source = {"type": "file", "channels": [0], "source": f"audio/{index // 1000:06d}/{name}.flac"}
        supervision = {
            "id": name,
            "recording_id": name,
            "start": 0.0,
            "duration": duration,
            "channel": 0,
            "text": " ".join(rng.choices(words, k=int(duration))),
            "speaker": f"speaker{index // 100:06d}",
        }
        recording = {
            "id": name,
            "sources": [source],
            "sampling_rate": 16_000,
            "num_samples": num_samples,
            "duration": duration,
            "channel_ids": [0],
        }
        cut = {
            "id": name,
            "start": 0.0,
            "duration": duration,
            "channel": 0,
            "supervisions": [supervision],
            "recording": recording,
            "type": "MonoCut",
        }
        yield json.dumps(cut) + "\n"


def read(path: Path, max_duration: float, count: int) -> dict[str, float]:
    """Times the first batch, imports included, and the batches after it."""
    start = time.perf_counter()
    from toolkit.data.manifests import open_cuts
    from toolkit.data.sampling import BatchStream, Position, SamplerConfig

    imported = time.perf_counter()
    config = SamplerConfig(max_duration=max_duration)
    stream = BatchStream(lambda epoch: open_cuts(path), config, seed=0, shuffle=True, source=str(path))
    batches = stream.walk(Position(0, 0, 0))
    next(batches)
    first = time.perf_counter()
    memory = peak_memory()
    rest = sum(1 for _ in progress(islice(batches, count - 1), count - 1, "reading"))
    return {
        "seconds_to_import": imported - start,
        "seconds_to_first_batch": first - start,
        "peak_memory_at_first_batch": memory,
        "batches": rest + 1,
        "batches_per_second": rest / (time.perf_counter() - first),
    }


def peak_memory() -> int:
    """Bytes that this process held at most."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    run(main)
