"""Frame labels of a manifest, shard by shard: whole shards are kept, so that an interrupted run goes on.

A folder of labels holds

    cuts.jsonl.gz        the cuts that were labelled, each with a TemporalArray `labels` (int16)
    recipe.json          what made them: features, frame shift, codebook, manifest; at the end a summary
    skipped.jsonl        cuts that could not be used: id, path, reason
    shards/00000.h5 ...  the labels (HDF5, Lhotse's numpy_hdf5 storage)
"""

import gzip
import io
import itertools
import json
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from lhotse import MonoCut
from lhotse.array import Array, TemporalArray
from lhotse.features.io import close_cached_file_handles, lookup_cache_or_open

from toolkit.data.manifests import write_cuts
from toolkit.errors import UserError
from toolkit.files import atomic_write, read_json, read_jsonl, write_json, write_jsonl
from toolkit.processes import die_with_parent
from toolkit.ssl.extract import FrameFeatures, extract
from toolkit.ssl.kmeans import KMeans

MOST_OPEN_FILES = 100
"""Files of labels that a process keeps open; many systems allow 1024 of any kind."""


@dataclass
class Labeller:
    """Features and the codebook for them."""

    features: FrameFeatures
    codebook: KMeans
    batch_seconds: float = 60.0
    """Audio computed together, padding included."""


@dataclass
class Summary:
    """What a folder of labels amounts to."""

    num_cuts: int = 0
    """Labelled cuts."""
    num_skipped: int = 0
    """Cuts that could not be used."""
    num_frames: int = 0
    """Labels."""
    audio_seconds: float = 0.0
    """Labelled audio."""


Shard = tuple[int, list[MonoCut], Path]
"""Number, cuts, folder."""


def label_cuts(
    cuts: Iterable[MonoCut],
    folder: str | Path,
    recipe: dict[str, Any],
    build: Callable[[int], Labeller],
    jobs: int = 1,
    shard_size: int = 500,
) -> Iterator[int]:
    """Labels cuts into a folder; called again after an interruption it goes on.

    Args:
        cuts: what to label; the same cuts in the same order each time.
        folder: where the labels go.
        recipe: identifies codebook and cuts; kept in recipe.json.
        build: makes the labeller of a process from the process's number; with several jobs it is pickled.
        jobs: processes.
        shard_size: cuts in a file of labels.

    Yields:
        The number of cuts of each shard once its labels are there.

    Raises:
        UserError: the folder holds labels of another recipe; no cut could be used; a process died; a number
            below 1.
    """
    if jobs < 1 or shard_size < 1:
        raise UserError(f"jobs, shard-size: found {jobs}, {shard_size}; expected 1 or more")
    folder = Path(folder)
    recipe = {**recipe, "shard_size": shard_size}
    if _is_done(folder, recipe):
        return
    source = iter(cuts)
    chunks = iter(lambda: list(itertools.islice(source, shard_size)), [])
    shards = ((number, chunk, folder) for number, chunk in enumerate(chunks))
    num_shards = 0
    for size in _in_processes(shards, build, jobs):
        num_shards += 1
        yield size
    _finish(folder, num_shards, recipe)


def read_summary(folder: str | Path) -> Summary:
    """The summary of a finished folder of labels; UserError if it is not finished."""
    path = Path(folder) / "recipe.json"
    found = read_json(path)
    if "summary" not in found:
        raise UserError(f"{path}: found no summary, expected finished labels; start the same command again")
    return Summary(**found["summary"])


def load_labels(cut: MonoCut) -> np.ndarray:
    """Reads the labels of a cut, (T,) int16; the cut has some.

    Lhotse alone would keep every file of labels open that it ever read.

    Raises:
        UserError: they cannot be read.
    """
    if lookup_cache_or_open.cache_info().currsize >= MOST_OPEN_FILES:
        close_cached_file_handles()
    try:
        return cut.load_labels()
    except (OSError, RuntimeError, KeyError, ValueError, AssertionError) as error:
        path = getattr(error, "filename", None) or cut.custom["labels"].array.storage_path
        number = getattr(error, "errno", None)
        reason = os.strerror(number) if number else f"damaged ({error})"
        raise UserError(f"{path}: {reason}, expected the labels of cut {cut.id}") from None


def _is_done(folder: Path, recipe: dict[str, Any]) -> bool:
    """Whether the folder holds all labels of this recipe; writes the recipe where there is none yet."""
    path = folder / "recipe.json"
    if not path.exists():
        write_json(path, recipe)
        return False
    found = read_json(path)
    finished = found.pop("summary", None) is not None
    differing = [key for key in {**found, **recipe} if found.get(key) != recipe.get(key)]
    if differing:
        raise UserError(
            f"{path}: labels of another {', '.join(differing)}; expected an empty folder or the same"
        )
    return finished


_labeller: Labeller | UserError | None = None
"""That of this process, or why there is none."""


def _start(build: Callable[[int], Labeller], number: int) -> None:
    global _labeller
    _labeller = build(number)


def _start_process(build: Callable[[int], Labeller], numbers: Any, threads: int, parent: int) -> None:
    die_with_parent(parent)
    # Ctrl-C reaches the whole group; shards that are under way get done, and the parent ends the rest.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    try:
        _start(build, numbers.get())
    except UserError as error:
        # Raised here it would show a traceback and break the pool; the first shard raises it.
        global _labeller
        _labeller = error


def _in_processes(shards: Iterable[Shard], build: Callable[[int], Labeller], jobs: int) -> Iterator[int]:
    """Labels the shards in several processes, in order; few of them are in memory at a time."""
    if jobs == 1:
        _start(build, 0)
        yield from map(_label_shard, shards)
        return
    context = get_context("spawn")
    numbers = context.SimpleQueue()
    for number in range(jobs):
        numbers.put(number)
    threads = max(1, torch.get_num_threads() // jobs)
    start = (build, numbers, threads, os.getpid())
    with ProcessPoolExecutor(jobs, context, _start_process, start) as pool:
        pending: deque[Future[int]] = deque()
        try:
            for shard in shards:
                pending.append(pool.submit(_label_shard, shard))
                if len(pending) > 2 * jobs:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool:
            raise UserError(
                "jobs: a process died, perhaps for want of memory; start again with fewer, done work is kept"
            ) from None
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _label_shard(task: Shard) -> int:
    """Writes the labels of a shard, then its cuts, which mark it as done; returns the number of cuts."""
    if isinstance(_labeller, UserError):
        raise _labeller
    shard, cuts, folder = task
    arrays_path, cuts_path, skipped_path = _paths(folder, shard)
    if cuts_path.exists():
        return len(cuts)
    for cut in cuts:
        if not isinstance(cut, MonoCut):
            raise UserError(f"cuts: {cut.id} is a {type(cut).__name__}, expected MonoCut")
    skipped: list[dict[str, str]] = []
    arrays = {
        position: _labeller.codebook.predict(features)
        for position, features in extract(cuts, _labeller.features, skipped, _labeller.batch_seconds)
    }
    packed = io.BytesIO()
    with h5py.File(packed, "w") as file:
        for position, array in sorted(arrays.items()):
            file.create_dataset(str(position), data=array)
    with atomic_write(arrays_path, "wb") as file:
        file.write(packed.getvalue())
    write_jsonl(skipped_path, skipped)
    frame_shift = _labeller.codebook.meta["features"]["frame_shift"]
    write_cuts(cuts_path, (_attach(cuts[i], arrays[i], arrays_path, i, frame_shift) for i in sorted(arrays)))
    return len(cuts)


def _attach(cut: MonoCut, labels: np.ndarray, path: Path, position: int, frame_shift: float) -> MonoCut:
    """The cut with `labels`, which lie in an HDF5 file under the cut's position in the shard."""
    # Not under the cut's id, as a slash in it would make a group.
    array = Array("numpy_hdf5", str(path), str(position), list(labels.shape))
    cut.labels = TemporalArray(array, temporal_dim=0, frame_shift=frame_shift, start=cut.start)
    return cut


def _paths(folder: Path, shard: int) -> tuple[Path, Path, Path]:
    """Labels, cuts and skipped cuts of a shard."""
    stem = folder / "shards" / f"{shard:05d}"
    return stem.with_suffix(".h5"), stem.with_suffix(".cuts.jsonl.gz"), stem.with_suffix(".skipped.jsonl")


def _finish(folder: Path, num_shards: int, recipe: dict[str, Any]) -> None:
    """Joins the shards' manifests and sums up."""
    total = Summary()
    paths = [_paths(folder, shard) for shard in range(num_shards)]
    with atomic_write(folder / "cuts.jsonl.gz") as joined:
        for _, cuts_path, _ in paths:
            with gzip.open(cuts_path, "rt", encoding="utf-8") as file:
                for line in file:
                    cut = json.loads(line)
                    total.num_cuts += 1
                    total.num_frames += cut["custom"]["labels"]["array"]["shape"][0]
                    total.audio_seconds += cut["duration"]
                    joined.write(line)
    skipped = [row for _, _, path in paths for row in read_jsonl(path)]
    total.num_skipped = len(skipped)
    write_jsonl(folder / "skipped.jsonl", skipped)
    if total.num_cuts == 0:
        raise UserError(
            f"{folder / 'skipped.jsonl'}: none of {len(skipped)} cuts could be used, expected some"
        )
    write_json(folder / "recipe.json", {**recipe, "summary": asdict(total)})
    for _, cuts_path, skipped_path in paths:
        cuts_path.unlink()
        skipped_path.unlink()
    for left_by_a_crash in (folder / "shards").glob(".*.tmp"):
        left_by_a_crash.unlink()
