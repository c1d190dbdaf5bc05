"""Frame labels of a manifest, shard by shard: whole shards are kept, so that an interrupted run goes on.

A folder of labels holds

    cuts.jsonl.gz        the cuts that were labelled, each with a TemporalArray `labels` (int16, T or T x C)
    recipe.json          what made them: codebooks, their features, frame shift, manifest; at the end a summary
    skipped.jsonl        cuts that could not be used: id, path, reason
    shards/00000.h5 ...  the labels (HDF5, Lhotse's numpy_hdf5 storage)
"""

import gzip
import io
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from lhotse import MonoCut
from lhotse.array import Array, TemporalArray
from lhotse.features.io import close_cached_file_handles, lookup_cache_or_open
from torch import Tensor

from toolkit.data.manifests import write_cuts
from toolkit.errors import UserError
from toolkit.files import atomic_write, read_json, read_jsonl, write_json, write_jsonl
from toolkit.ssl.extract import FrameFeatures, extract
from toolkit.ssl.kmeans import KMeans
from toolkit.ssl.quality import MAX_DIFFERENCE
from toolkit.ssl.workers import run_shards

MOST_OPEN_FILES = 100
"""Files of labels that a process keeps open; many systems allow 1024 of any kind."""


class Labeller:
    """Labels of utterances: for each codebook a stream of them.

    Args:
        streams: codebooks, each with the features that it is for; several may share one object of features.
        batch_seconds: audio computed together, padding included.

    Attributes:
        frame_shift: seconds from label to label.

    Raises:
        UserError: codebooks of several frame shifts.
    """

    def __init__(self, streams: Sequence[tuple[FrameFeatures, KMeans]], batch_seconds: float = 60.0) -> None:
        self.streams = streams
        self.batch_seconds = batch_seconds
        self.frame_shift = common_frame_shift(codebook.meta for _, codebook in streams)

    def num_frames(self, samples: int) -> int:
        """Labels of an utterance of so many samples: as many as each stream has."""
        return min(features.num_frames(samples) for features, _ in self.streams)

    def __call__(self, utterances: list[Tensor]) -> list[Tensor]:
        """Labels of utterances (S,), int16: (T,) of one codebook, (T, C) of C.

        Raises:
            UserError: streams that differ by more than MAX_DIFFERENCE frames.
        """
        columns = []
        computed: dict[int, list[Tensor]] = {}
        for features, codebook in self.streams:
            if id(features) not in computed:
                computed[id(features)] = features(utterances)
            rows = computed[id(features)]
            labels = torch.from_numpy(codebook.predict(torch.cat(rows)))
            columns.append(labels.split([len(row) for row in rows]))
        return [_together(column) for column in zip(*columns, strict=True)]


def _together(streams: Sequence[Tensor]) -> Tensor:
    """The labels (T,) of each codebook as (T, C), or as they are if there is one."""
    if len(streams) == 1:
        return streams[0]
    sizes = [len(stream) for stream in streams]
    if max(sizes) - min(sizes) > MAX_DIFFERENCE:
        raise UserError(
            f"kmeans: found {sizes} labels for one utterance, expected codebooks whose features differ by at most "
            f"{MAX_DIFFERENCE} frames"
        )
    return torch.stack([stream[: min(sizes)] for stream in streams], dim=1)


def common_frame_shift(metas: Iterable[dict[str, Any]]) -> float:
    """The frame shift, in seconds, of codebooks with this metadata; UserError if there are several."""
    shifts = {meta["features"]["frame_shift"] for meta in metas}
    if len(shifts) != 1:
        raise UserError(f"kmeans: found codebooks for frame shifts of {sorted(shifts)} s, expected one")
    return shifts.pop()


@dataclass
class Summary:
    """What a folder of labels amounts to."""

    num_cuts: int = 0
    """Labelled cuts."""
    num_skipped: int = 0
    """Cuts that could not be used."""
    num_frames: int = 0
    """Labels, of each stream."""
    audio_seconds: float = 0.0
    """Labelled audio."""

    def add(self, num_frames: int, seconds: float) -> None:
        """Counts a labelled cut."""
        self.num_cuts += 1
        self.num_frames += num_frames
        self.audio_seconds += seconds


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
        recipe: identifies codebooks and cuts; kept in recipe.json.
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
    if is_done(folder, recipe):
        _remove_lists(folder)
        return
    source = iter(cuts)
    chunks = iter(lambda: list(itertools.islice(source, shard_size)), [])
    num_shards = 0
    shards = (ManifestShard(number, chunk, folder) for number, chunk in enumerate(chunks))
    for size in run_shards(shards, build, jobs):
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
    """Reads the labels of a cut, int16, (T,) of one codebook or (T, C) of several; the cut has some.

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


def is_done(folder: Path, recipe: dict[str, Any]) -> bool:
    """Whether the folder holds all labels of this recipe; writes the recipe where there is none yet."""
    path = folder / "recipe.json"
    if not path.exists():
        write_json(path, recipe)
        return False
    found = read_json(path)
    if not isinstance(found, dict):
        raise UserError(f"{path}: found {type(found).__name__}, expected what made the labels of this folder")
    finished = found.pop("summary", None) is not None
    differing = [key for key in {**found, **recipe} if found.get(key) != recipe.get(key)]
    if differing:
        raise UserError(
            f"{path}: labels of another {', '.join(differing)}; expected an empty folder or the same"
        )
    return finished


@dataclass
class ManifestShard:
    """Some cuts of a manifest, to be labelled into a file; see `workers.Shard`."""

    number: int
    cuts: list[MonoCut]
    folder: Path

    def run(self, labeller: Labeller) -> int:
        """Writes the labels, then the cuts, which mark the shard as done; returns the number of cuts."""
        arrays_path, cuts_path, skipped_path = _paths(self.folder, self.number)
        if cuts_path.exists():
            return len(self.cuts)
        for cut in self.cuts:
            if not isinstance(cut, MonoCut):
                raise UserError(f"cuts: {cut.id} is a {type(cut).__name__}, expected MonoCut")
        skipped: list[dict[str, str]] = []
        arrays = {
            position: labels.numpy()
            for position, labels in extract(self.cuts, labeller, skipped, labeller.batch_seconds)
        }
        packed = io.BytesIO()
        with h5py.File(packed, "w") as file:
            for position, array in sorted(arrays.items()):
                file.create_dataset(str(position), data=array)
        with atomic_write(arrays_path, "wb") as file:
            file.write(packed.getvalue())
        write_jsonl(skipped_path, skipped)
        shift = labeller.frame_shift
        labelled = (_attach(self.cuts[i], arrays[i], arrays_path, i, shift) for i in sorted(arrays))
        write_cuts(cuts_path, labelled)
        return len(self.cuts)


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
                    total.add(cut["custom"]["labels"]["array"]["shape"][0], cut["duration"])
                    joined.write(line)
    write_summary(folder, recipe, total, [path for _, _, path in paths])
    _remove_lists(folder)


def _remove_lists(folder: Path) -> None:
    """Removes the shards' manifests and lists, which are joined, and what a crash left."""
    for pattern in ("*.cuts.jsonl.gz", "*.skipped.jsonl", ".*.tmp"):
        for path in (folder / "shards").glob(pattern):
            path.unlink()


def write_summary(
    folder: Path, recipe: dict[str, Any], total: Summary, skipped_lists: Iterable[Path]
) -> None:
    """Joins the lists of skipped cuts, and marks the folder as finished.

    Raises:
        UserError: nothing was labelled.
    """
    skipped = [row for path in skipped_lists for row in read_jsonl(path)]
    total.num_skipped = len(skipped)
    write_jsonl(folder / "skipped.jsonl", skipped)
    if total.num_cuts == 0:
        raise UserError(
            f"{folder / 'skipped.jsonl'}: none of {len(skipped)} cuts could be used, expected some"
        )
    write_json(folder / "recipe.json", {**recipe, "summary": asdict(total)})
