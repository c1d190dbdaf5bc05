"""The order of the data: an endless stream of batches that is a pure function of seed and position.

Every rank walks the same stream and takes every world_size-th batch. So two processes see what one process sees with
accumulation over two batches, and a run goes on after an interruption exactly where it stopped.
"""

import math
import os
import random
import signal
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import torch
from lhotse import CutSet
from lhotse.cut import Cut
from lhotse.dataset import DynamicBucketingSampler, DynamicCutSampler
from lhotse.dataset.sampling.base import TimeConstraint
from torch.utils.data import DataLoader, Dataset, Sampler

from toolkit.data.audio import audio_paths
from toolkit.data.validate import skipped_row
from toolkit.errors import UserError
from toolkit.processes import die_with_parent

# Advice that does not apply: one sampler serves manifests in memory too, and a long cut may fill a batch alone.
warnings.filterwarnings("ignore", "You are using Dynamic.* with an eagerly read CutSet")
warnings.filterwarnings("ignore", "We have exceeded the max_duration constraint during sampling")

Collate = Callable[[Any, random.Random], Any]
"""Makes a batch, which has a list `skipped` as `toolkit.data.batch.Batch` has, of what a stream groups."""


class Position(NamedTuple):
    """A place in the stream of batches."""

    epoch: int
    """Passes over the data before this one."""
    index: int
    """Batches of this epoch before this one."""
    total: int
    """Batches of all epochs before this one."""


@dataclass
class SamplerConfig:
    """How cuts become batches."""

    max_duration: float = 100.0
    """Seconds of audio in a batch, padding included: it is full once another cut as long as its longest would not fit.
    A last cut that is longer than the others may exceed this; buckets keep that small."""
    max_cuts: int | None = None
    """Most cuts in a batch; null for no limit."""
    min_seconds: float = 0.1
    """Shorter cuts are left out, and listed in skipped.jsonl."""
    max_seconds: float = 30.0
    """Longer cuts are left out likewise; of a cut that is cropped, the crop counts."""
    num_buckets: int = 10
    """Groups of like duration; a batch is drawn from one of them, which keeps padding small."""
    buffer_size: int = 10000
    """Cuts that are held in memory for shuffling and bucketing."""
    shar_buffer_size: int = 1000
    """The same for a Shar folder, whose shards are shuffled as well; cuts from there hold their audio in memory."""
    num_workers: int = 0
    """Processes that read audio on each rank; 0 reads it in the training process."""

    def __post_init__(self) -> None:
        for name in ("max_duration", "max_cuts", "num_buckets", "buffer_size", "shar_buffer_size"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if self.num_workers < 0:
            raise ValueError(f"num_workers must not be negative, got {self.num_workers}")
        if not 0 <= self.min_seconds < self.max_seconds:
            raise ValueError(f"min_seconds {self.min_seconds} must be below max_seconds {self.max_seconds}")


@dataclass
class CroppedTime(TimeConstraint):
    """Limits of a batch, in which a cut counts as long as what is read of it."""

    crop_seconds: float = math.inf
    """Most seconds that are read."""

    def measure_length(self, example: Cut) -> float:
        """Seconds of a cut that are read."""
        return min(example.duration, self.crop_seconds)

    def add(self, example: Cut) -> None:
        """Counts a cut."""
        seconds = self.measure_length(example)
        self.current += seconds
        self.longest_seen = max(self.longest_seen, seconds)
        self.num_cuts += 1


class Stream:
    """What is to become batches, in groups, epoch after epoch; a pure function of seed and position.

    Args:
        seed: of the shuffling.
        num_workers: processes that are to make batches of the groups.
        nothing: the message if an epoch has no group at all.

    Attributes:
        left_out: a row of skipped.jsonl for each thing that was found to be of no use, by id; whoever tells of them
            empties it.
    """

    def __init__(self, seed: int, num_workers: int, nothing: str) -> None:
        self.seed, self.num_workers, self.nothing = seed, num_workers, nothing
        self.left_out: dict[str, dict[str, str]] = {}

    def epoch(self, epoch: int) -> Iterator[Any]:
        """The groups of one pass over the data."""
        raise AssertionError(f"{type(self).__name__} gives nothing")

    def walk(self, start: Position) -> Iterator[tuple[Position, Any]]:
        """Every group from `start` on, without end.

        Raises:
            UserError: an epoch has no group at all.
        """
        epoch, skip, total = start
        while True:
            empty = True
            for index, group in enumerate(self.epoch(epoch)):
                empty = False
                if index >= skip:
                    yield Position(epoch, index, total), group
                    total += 1
            if empty:
                raise UserError(self.nothing)
            epoch, skip = epoch + 1, 0


class BatchStream(Stream):
    """Batches of cuts from a lazy manifest; those that are too short or too long are left out.

    Args:
        cuts: what to draw from in an epoch; not held in memory.
        config: how cuts become batches.
        seed: of the shuffling.
        shuffle: False gives one fixed order, for validation.
        source: where the cuts come from, for messages.
        crop_seconds: most seconds that will be read of a cut.
    """

    def __init__(
        self,
        cuts: Callable[[int], CutSet],
        config: SamplerConfig,
        seed: int,
        shuffle: bool,
        source: str,
        crop_seconds: float = math.inf,
    ) -> None:
        super().__init__(
            seed,
            config.num_workers,
            f"{source}: found no cut that is {config.min_seconds} to {config.max_seconds} seconds long "
            "(data.sampler.min_seconds, data.sampler.max_seconds), expected at least one",
        )
        self.cuts = cuts
        self.config = config
        self.shuffle = shuffle
        self.limits = CroppedTime(config.max_duration, config.max_cuts, crop_seconds=crop_seconds)

    def seconds(self, cut: Cut) -> float:
        """How much of a cut will be read."""
        return self.limits.measure_length(cut)

    def _is_wanted(self, cut: Cut) -> bool:
        seconds, least, most = self.seconds(cut), self.config.min_seconds, self.config.max_seconds
        if seconds < least:
            reason = f"too short: {seconds:.2f} s, limit {least:g} s (data.sampler.min_seconds)"
        elif seconds > most:
            reason = f"too long: {seconds:.2f} s, limit {most:g} s (data.sampler.max_seconds)"
        else:
            return True
        self.left_out[cut.id] = skipped_row(cut.id, ", ".join(audio_paths(cut)), reason)
        return False

    def epoch(self, epoch: int) -> Iterator[CutSet]:
        """The batches of one pass over the data."""
        config = self.config
        wanted = self.cuts(epoch).filter(self._is_wanted)
        # Lhotse cannot make more buckets than there are cuts, and warns of those that stay empty.
        num_buckets = sum(1 for _ in islice(wanted, 2 * config.num_buckets)) // 2
        common = {
            "constraint": self.limits.copy(),
            "shuffle": self.shuffle,
            "seed": self.seed,
            "world_size": 1,
            "rank": 0,
        }
        if self.shuffle and num_buckets > 1:
            sampler = DynamicBucketingSampler(
                wanted,
                num_buckets=num_buckets,
                num_cuts_for_bins_estimate=config.buffer_size,
                buffer_size=config.buffer_size,
                **common,
            )
        else:
            sampler = DynamicCutSampler(wanted, shuffle_buffer_size=config.buffer_size, **common)
        sampler.set_epoch(epoch)
        return iter(sampler)


def training_loader(
    stream: Stream,
    collate: Collate,
    start: Position,
    consumed: int,
    rank: int,
    world_size: int,
    pin_memory: bool,
) -> Iterable[tuple[Position, Any]]:
    """This rank's share of the endless stream after the first `consumed` batches.

    `start` is any known place at or before that; batches in between are passed over unread. The ranks take the batches
    in rows, one each; with its batch every rank gets the position of the row's first one, (row, batch).
    """

    def share() -> Iterator[tuple[Position, Position, Any]]:
        for position, group in stream.walk(start):
            if position.total < consumed:
                continue
            place = (position.total - consumed) % world_size
            if place == 0:
                row = position
            if place == rank:
                yield row, position, group

    return _loader(share, collate, stream, rank, pin_memory)


def validation_loader(
    stream: Stream, collate: Collate, rank: int, world_size: int, pin_memory: bool
) -> Iterable[tuple[Position, Any]]:
    """This rank's share of one pass over the data."""

    def share() -> Iterator[tuple[Position, Position, Any]]:
        for index, group in enumerate(stream.epoch(0)):
            if index % world_size == rank:
                yield Position(0, index, index), Position(0, index, index), group

    return _loader(share, collate, stream, rank, pin_memory)


def _loader(
    share: Callable, collate: Collate, stream: Stream, rank: int, pin_memory: bool
) -> Iterator[tuple[Position, Any]]:
    workers = stream.num_workers
    loader = DataLoader(
        CollateDataset(collate, stream.seed),
        sampler=IterableSampler(share),
        batch_size=None,
        num_workers=workers,
        worker_init_fn=partial(_start_worker, os.getpid()) if workers else None,
        pin_memory=pin_memory,
        prefetch_factor=4 if workers else None,
    )
    try:
        for position, batch in loader:
            if isinstance(batch, UserError | OSError):
                raise batch
            # Every rank walks the whole stream; the first one tells what was left out of it.
            left_out, stream.left_out = stream.left_out, {}
            if rank == 0 and left_out:
                batch.skipped.extend(left_out.values())
            yield position, batch
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise UserError(
            f"data.sampler.num_workers: one of {workers} loader processes died, perhaps for want of memory; expected "
            "fewer, or smaller batches (data.sampler.max_duration, data.sampler.max_characters)"
        ) from None


def _start_worker(parent: int, _: int) -> None:
    # PyTorch's own watch over the parent fails where a worker waits to hand over what nobody will take.
    die_with_parent(parent)
    torch.set_num_threads(1)
    # A SIGTERM that reaches all processes of a job asks for a checkpoint, for which the workers are still needed; it is
    # the second one that ends them.
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))


class IterableSampler(Sampler):
    """Hands what a function yields to the loader."""

    def __init__(self, source: Callable[[], Iterator]) -> None:
        self.source = source

    def __iter__(self) -> Iterator:
        return self.source()


class CollateDataset(Dataset):
    """Turns (row, position, group) into (row, batch), with random numbers that depend on seed and position alone."""

    def __init__(self, collate: Collate, seed: int) -> None:
        self.collate = collate
        self.seed = seed

    def __getitem__(self, item: tuple[Position, Position, Any]) -> tuple[Position, Any]:
        row, position, group = item
        rng = random.Random(f"{self.seed}/{position.epoch}/{position.index}")
        try:
            return row, self.collate(group, rng)
        # Raised by a worker, errors would arrive with a traceback in their message; so they go the way of a batch.
        except (UserError, OSError) as error:
            return row, error.with_traceback(None)
