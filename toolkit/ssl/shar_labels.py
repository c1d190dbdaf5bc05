"""Frame labels of a Shar folder: a file of labels beside each file of audio, which stays where it is.

A folder of labels holds

    shar/                a Shar folder to train on: labels.000000.tar ..., and links to the cuts and audio
    recipe.json          what made them, as for a manifest
    skipped.jsonl        cuts that could not be used; they get one label, -1: files of a shard go by position
"""

import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lhotse import MonoCut
from lhotse.array import Array, TemporalArray

from toolkit.data.shar import read_shard, shard_names
from toolkit.errors import UserError
from toolkit.files import atomic_write, read_json, write_json, write_jsonl
from toolkit.ssl.extract import extract
from toolkit.ssl.labels import Labeller, Summary, is_done, write_summary
from toolkit.ssl.workers import run_shards


def label_shar(
    source: str | Path,
    folder: str | Path,
    recipe: dict[str, Any],
    build: Callable[[int], Labeller],
    jobs: int = 1,
) -> Iterator[int]:
    """Labels a Shar folder; called again after an interruption it goes on.

    Args:
        source: the Shar folder; labels that it holds are replaced.
        folder: where the labels go.
        recipe, build, jobs: see `labels.label_cuts`.

    Yields:
        The number of cuts of each shard once its labels are there.

    Raises:
        UserError: as `labels.label_cuts`; the Shar folder is damaged.
    """
    if jobs < 1:
        raise UserError(f"jobs: found {jobs}, expected 1 or more")
    source, folder = Path(source), Path(folder)
    if is_done(folder, recipe):
        _remove_lists(folder)
        return
    shards = [SharShard(name, source, folder) for name in shard_names(source)]
    yield from run_shards(shards, build, jobs)
    _finish(shards, source, folder, recipe)


@dataclass
class SharShard:
    """A shard to be labelled; see `workers.Shard`."""

    name: str
    source: Path
    folder: Path

    @property
    def summary_path(self) -> Path:
        """What was found; it marks the shard as done."""
        return self.folder / "shards" / f"{self.name}.json"

    @property
    def skipped_path(self) -> Path:
        """Its skipped cuts."""
        return self.folder / "shards" / f"{self.name}.skipped.jsonl"

    def run(self, labeller: Labeller) -> int:
        """Writes labels, skipped cuts and a summary; returns the number of cuts."""
        if self.summary_path.exists():
            return read_json(self.summary_path)["size"]
        cuts = read_shard(self.source, self.name)
        for cut in cuts:
            if not isinstance(cut, MonoCut):
                raise UserError(f"{self.source}: {cut.id} is a {type(cut).__name__}, expected MonoCut")
        skipped: list[dict[str, str]] = []
        labels = {
            position: row.numpy()
            for position, row in extract(cuts, labeller, skipped, labeller.batch_seconds)
        }
        streams = len(labeller.streams)
        none = np.full(1 if streams == 1 else (1, streams), -1, np.int16)
        total = Summary()
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as file:
            for position, cut in enumerate(cuts):
                if position in labels:
                    total.add(len(labels[position]), cut.duration)
                _add(file, cut, labels.get(position, none), labeller.frame_shift)
        with atomic_write(self.folder / "shar" / f"labels.{self.name}.tar", "wb") as file:
            file.write(packed.getvalue())
        write_jsonl(self.skipped_path, skipped)
        counted = {"cuts": total.num_cuts, "frames": total.num_frames, "seconds": total.audio_seconds}
        write_json(self.summary_path, {"size": len(cuts), **counted})
        return len(cuts)


def _add(file: tarfile.TarFile, cut: MonoCut, labels: np.ndarray, frame_shift: float) -> None:
    """Appends an array and its description, as Lhotse reads them."""
    data = io.BytesIO()
    np.save(data, labels, allow_pickle=False)
    array = Array("shar", "", "", list(labels.shape))
    described = TemporalArray(array, temporal_dim=0, frame_shift=frame_shift, start=cut.start)
    manifest = json.dumps(described.to_dict()).encode()
    for suffix, content in ((".npy", data.getvalue()), (".json", manifest)):
        entry = tarfile.TarInfo(cut.id + suffix)
        entry.size = len(content)
        file.addfile(entry, io.BytesIO(content))


def _finish(shards: list[SharShard], source: Path, folder: Path, recipe: dict[str, Any]) -> None:
    """Links the cuts and the audio, and sums up."""
    target = folder / "shar"
    for left_by_a_crash in target.glob(".*.tmp"):
        left_by_a_crash.unlink()
    for path in sorted(source.iterdir()):
        link = target / path.name
        if path.name.split(".")[0] != "labels" and not link.is_symlink():
            os.symlink(path.resolve(), link)
    total = Summary()
    for shard in shards:
        found = read_json(shard.summary_path)
        total.num_cuts += found["cuts"]
        total.num_frames += found["frames"]
        total.audio_seconds += found["seconds"]
    write_summary(folder, recipe, total, [shard.skipped_path for shard in shards])
    _remove_lists(folder)


def _remove_lists(folder: Path) -> None:
    """Removes the shards' summaries and lists, which are summed up."""
    if (folder / "shards").exists():
        shutil.rmtree(folder / "shards")
