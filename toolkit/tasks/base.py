"""What all tasks share: where the data comes from, and how a pretrained encoder is taken over."""

import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from lhotse import CutSet
from lhotse.cut import Cut
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from toolkit import checkpoint, config
from toolkit.config import choice
from toolkit.data.augment import AugmentConfig, augment, change_speed
from toolkit.data.manifests import open_cuts
from toolkit.data.sampling import BatchStream, Position, SamplerConfig, training_loader, validation_loader
from toolkit.data.synthetic import synthetic_cuts
from toolkit.errors import UserError
from toolkit.models.adaptation import ADAPTATIONS, NoneConfig, adapt, is_added, without_additions
from toolkit.models.base import SpeechConfig, SpeechEncoder
from toolkit.models.depth import layers_above

# Ends of the keys of an encoder that change nothing of what is computed without gradients.
ONLY_IN_TRAINING = (
    *("dropout", "layer_drop", "checkpointing", "feature_grad_mult", "frontend.backend"),
    *("chunk_sizes", "left_contexts", "unmasked_dims", "updates_scale"),
)


@dataclass
class DataConfig:
    """What a model is trained and validated on."""

    train: str = ""
    """Cuts (.jsonl, .jsonl.gz or a Shar folder) to train on; synthetic:N makes N utterances of tones."""
    valid: str | None = None
    """Cuts to validate on; null for none."""
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    """How cuts become batches."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Changes to the training audio."""


@dataclass
class InitConfig:
    """A pretrained encoder to begin with."""

    model: str | None = None
    """Model directory whose encoder is taken over, and its section `speech` if none is given; null: from scratch."""
    lr_factor: float = 1.0
    """What the learning rate of the pretrained encoder is multiplied by."""
    layer_decay: float = 1.0
    """What it is multiplied by once more for each layer that lies above: below 1, lower layers change less."""
    adaptation: Any = choice(ADAPTATIONS, "none")
    """What is trained in place of the pretrained encoder's own weights."""

    def __post_init__(self) -> None:
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay must be over 0 and at most 1, got {self.layer_decay}")
        if self.model is None and not isinstance(self.adaptation, NoneConfig):
            raise ValueError(f"adaptation: found {self.adaptation.name} without a pretrained model to adapt")


class Task:
    """Data and pretrained weights; a task adds its model, batches and loss.

    Args:
        config: of the task; has `data` and, where a pretrained encoder can be used, `init`.
        model_dir: the model directory, where the task keeps what the model needs beside its weights (tokens, speaker
            names).
        seed: of order and augmentation.
    """

    def __init__(self, config: Any, model_dir: Path, seed: int) -> None:
        self.config = config
        self.model_dir = model_dir
        self.seed = seed
        self.update = 0

    def prepare(self) -> None:
        """Makes what the model needs beside its weights, from the training data; called once, before training."""

    def build_model(self) -> nn.Module:
        """A new model with random weights."""
        raise AssertionError(f"{type(self).__name__} builds no model")

    def build_speech(self) -> SpeechEncoder:
        """A new encoder, with what `init` adds to it; UserError if that does not fit."""
        speech = SpeechEncoder(self.config.speech)
        adapt(speech, self.config.init.adaptation)
        self.layers_above = layers_above(speech)
        return speech

    def collate(self, cuts: CutSet, rng: random.Random) -> Any:
        """Reads audio and targets of a batch; runs in loader workers."""
        raise AssertionError(f"{type(self).__name__} builds no batch")

    def collate_training(self, cuts: CutSet, rng: random.Random) -> Any:
        """Like `collate`, for batches to train on; tasks override this to change what the model hears."""
        return self.collate(cuts, rng)

    def before_update(self, model: nn.Module, update: int) -> None:
        """Tells the model and the loss how many updates are done."""
        self.update = update
        model.set_update(update)

    def after_update(self, model: nn.Module) -> None:
        """Called once the optimiser has moved the weights; most tasks have nothing to do."""

    def derived(self, means: dict[str, float]) -> dict[str, float]:
        """Further numbers for the log, worked out from the mean loss and statistics; most tasks have none."""
        return {}

    def initialize(self, model: nn.Module, say: Callable[[str], None]) -> None:
        """Copies the pretrained encoder into the model, if the configuration names one.

        Raises:
            UserError: there is no such model, or its encoder is another one.
        """
        init = getattr(self.config, "init", None)
        if init is None or init.model is None:
            return
        path = Path(init.model) / "model.safetensors"
        tensors, _ = checkpoint.load(path)
        speech = {
            name.removeprefix("speech."): t for name, t in tensors.items() if name.startswith("speech.")
        }
        check_speech(self.config.speech, path.with_name("config.yaml"))
        speech = without_additions(speech, adaptation_of(path.with_name("config.yaml")), str(path))
        added = {name: tensor for name, tensor in model.speech.state_dict().items() if is_added(name)}
        checkpoint.load_weights(model.speech, speech | added, path)
        say(f"encoder from {path}" + (f", which stays; {init.adaptation.name} is trained" if added else ""))

    def training_batches(
        self, start: tuple[int, int, int], consumed: int, rank: int, world_size: int, pin_memory: bool
    ) -> Iterable:
        """See `toolkit.train.loop.Task`."""
        return training_loader(
            self._training_stream(), self._augmented, Position(*start), consumed, rank, world_size, pin_memory
        )

    def validation_batches(self, rank: int, world_size: int, pin_memory: bool) -> Iterable:
        """See `toolkit.train.loop.Task`."""
        path = self.config.data.valid
        if path is None:
            return []
        stream = self._stream(lambda epoch: self.validation_cuts(), path, shuffle=False)
        return validation_loader(stream, self.collate, rank, world_size, pin_memory)

    def largest_batches(self, count: int) -> list[Any]:
        """Of the first `count` batches the longest and the one with most cuts, at the lowest speed of augmentation."""
        stream = self._training_stream()
        slowest = min(self.config.data.augment.speed, default=1.0)
        batches = [
            CutSet.from_cuts(change_speed(cut, slowest) for cut in cuts)
            for _, cuts in islice(stream.walk(Position(0, 0, 0)), count)
        ]
        longest = max(batches, key=lambda cuts: len(cuts) * max(map(stream.seconds, cuts)))
        most = max(batches, key=len)
        chosen = [longest] if most is longest else [longest, most]
        return [self.collate_training(cuts, random.Random(self.seed)) for cuts in chosen]

    def lr_factor(self, name: str) -> float:
        """What the learning rate of a parameter is multiplied by."""
        if not self.is_pretrained(name):
            return 1.0
        init = self.config.init
        if init.layer_decay == 1.0:
            return init.lr_factor
        return init.lr_factor * init.layer_decay ** self.layers_above[name.removeprefix("speech.")]

    def is_pretrained(self, name: str) -> bool:
        """True for the encoder of a model that began with a pretrained one, but for what was added to it."""
        init = getattr(self.config, "init", None)
        return (
            init is not None and init.model is not None and name.startswith("speech.") and not is_added(name)
        )

    @property
    def read_seconds(self) -> float:
        """Most seconds that are read of a cut; tasks that crop override this."""
        return math.inf

    def training_cuts(self, epoch: int = 0) -> CutSet:
        """The training data of an epoch, lazily; tasks override this to cut or filter it."""
        return named_cuts(self.config.data.train, "data.train", shard_seed=self.seed + epoch)

    def validation_cuts(self) -> CutSet:
        """The validation data, lazily."""
        return named_cuts(self.config.data.valid, "data.valid")

    def _training_stream(self) -> BatchStream:
        return self._stream(self.training_cuts, self.config.data.train, shuffle=True)

    def _stream(self, cuts: Callable[[int], CutSet], source: str, shuffle: bool) -> BatchStream:
        check = partial(check_rate, sample_rate=self.config.speech.frontend.sample_rate, source=source)
        sampler = self.config.data.sampler
        if Path(source).is_dir():
            sampler = replace(sampler, buffer_size=sampler.shar_buffer_size)
        return BatchStream(
            lambda epoch: cuts(epoch).map(check), sampler, self.seed, shuffle, source, self.read_seconds
        )

    def _augmented(self, cuts: CutSet, rng: random.Random) -> Any:
        return self.collate_training(augment(cuts, self.config.data.augment, rng), rng)


def named_cuts(name: str, key: str, shard_seed: int | None = None) -> CutSet:
    """Opens a manifest or Shar folder, or makes the tones that "synthetic:N" asks for.

    Args:
        name: what the configuration names.
        key: where it does, for messages.
        shard_seed: see `open_cuts`.

    Raises:
        UserError: nothing is named, or it cannot be read.
    """
    if not name:
        raise UserError(f"{key}: found nothing, expected a cuts manifest or a Shar folder")
    kind, _, count = name.partition(":")
    if kind == "synthetic":
        if not count.isdigit() or int(count) == 0:
            raise UserError(f"{key}: found {name!r}, expected synthetic:N with a number of cuts")
        return synthetic_cuts(int(count), seed=0 if key == "data.train" else 1)
    return open_cuts(name, shard_seed)


def with_speech(raw: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a training, read but not built; its section `speech` is that of `init.model` if it has none.

    Raises:
        UserError: the pretrained model has no valid configuration.
    """
    init = raw.get("init")
    model = init.get("model") if isinstance(init, dict) else None
    if raw.get("speech") is not None or not isinstance(model, str):
        return raw
    return {**raw, "speech": config.to_dict(speech_of(Path(model) / "config.yaml"))}


def speech_of(path: Path) -> SpeechConfig:
    """The section `speech` of the configuration file of a pretrained model."""
    return config.build(SpeechConfig, config.read_yaml(path).get("speech") or {}, f"{path}: speech")


def adaptation_of(path: Path) -> Any:
    """What was added to the encoder of a pretrained model, according to its configuration file."""
    init = config.read_yaml(path).get("init") or {}
    return config.build(InitConfig, init, f"{path}: init").adaptation


def check_speech(speech: SpeechConfig, path: Path) -> None:
    """Compares an encoder with that of the configuration file of a pretrained model.

    Not every setting shows in the shapes of the weights.

    Raises:
        UserError: they would not compute the same from the same weights.
    """
    differences = config.differences(config.to_dict(speech), config.to_dict(speech_of(path)))
    wrong = [
        f"speech.{key}: found {found!r}, expected {expected!r}"
        for key, (found, expected) in differences.items()
        if not key.endswith(ONLY_IN_TRAINING)
    ]
    if wrong:
        more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise UserError(
            f"{'; '.join(wrong[:3])}{more} as in {path}; without a section speech that of {path} is taken over"
        )


def check_rate(cut: Cut, sample_rate: int, source: str) -> Cut:
    """The cut itself; UserError if it has another sampling rate than the model is made for."""
    if cut.sampling_rate != sample_rate:
        raise UserError(
            f"{source}: found cut {cut.id} at {cut.sampling_rate} Hz, expected {sample_rate} Hz as in "
            "speech.frontend.sample_rate"
        )
    return cut


def crop(cut: Cut, seconds: float, rng: random.Random) -> Cut:
    """A random stretch of a cut that is longer than `seconds`; shorter ones stay as they are."""
    if cut.duration <= seconds:
        return cut
    offset = rng.randint(0, int((cut.duration - seconds) * cut.sampling_rate)) / cut.sampling_rate
    return cut.truncate(offset=offset, duration=seconds, preserve_id=True)


def inner(model: nn.Module) -> nn.Module:
    """The model itself, if it is wrapped for several processes."""
    return model.module if isinstance(model, DistributedDataParallel) else model
