"""Fine-tuning of small parts that are added to a pretrained encoder, which itself stays as it is.

What is added has names of its own beside those of the encoder, so the encoder's weights are found again under theirs.
"""

import re
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from toolkit.errors import UserError
from toolkit.nn.adapter import Adapter, AdapterSlot, LoraLinear, LoraSwooshLinear, merged_weight
from toolkit.nn.swoosh import SwooshLinear

LORA, ADAPTER = ".lora.", ".adapter."
"""What the names of all parameters that are added contain."""


class Adaptation(Protocol):
    """What `ADAPTATIONS` holds: built as `Adaptation(config)`."""

    Config: ClassVar[type]

    def apply(self, encoder: nn.Module) -> None:
        """Adds parts to an encoder that is frozen."""


@dataclass
class NoneConfig:
    """All of the encoder is trained."""

    name: str = "none"
    """Which adaptation this is."""


class Nothing:
    """Adds nothing."""

    Config = NoneConfig

    def __init__(self, config: NoneConfig) -> None:
        self.config = config

    def apply(self, encoder: nn.Module) -> None:
        """See `Adaptation`."""


@dataclass
class LoraConfig:
    """Low-rank changes of linear layers (LoRA, arXiv 2106.09685)."""

    name: str = "lora"
    """Which adaptation this is."""
    rank: int = 8
    """Of the changes."""
    alpha: float = 16.0
    """The changes are multiplied by alpha / rank."""
    dropout: float = 0.0
    """Dropout of what goes into the changes."""
    targets: list[str] = field(default_factory=lambda: ["attention"])
    """Which linear layers: regular expressions, one of which is to be found in the layer's name in the encoder, such as
    layers.0.attention.qkv."""

    def __post_init__(self) -> None:
        if self.rank < 1 or not self.alpha > 0 or not 0 <= self.dropout < 1:
            raise ValueError(
                "rank must be at least 1, alpha positive and dropout in [0, 1), got "
                f"{self.rank}, {self.alpha} and {self.dropout}"
            )
        for target in self.targets:
            try:
                re.compile(target)
            except re.error as error:
                raise ValueError(
                    f"targets: found {target!r}, which is no regular expression: {error}"
                ) from None
        if not self.targets:
            raise ValueError("targets must not be empty")

    @property
    def scale(self) -> float:
        """What the changes are multiplied by."""
        return self.alpha / self.rank


class Lora:
    """Gives the chosen linear layers a low-rank change each."""

    Config = LoraConfig

    def __init__(self, config: LoraConfig) -> None:
        self.config = config

    def apply(self, encoder: nn.Module) -> None:
        """See `Adaptation`; UserError if a regular expression is found in no name."""
        config = self.config
        # Not those of parametrizations and the like, which compute with the weight itself.
        layers = {n: m for n, m in encoder.named_modules() if type(m) in (nn.Linear, SwooshLinear)}
        for target in config.targets:
            if not any(re.search(target, name) for name in layers):
                raise UserError(
                    f"init.adaptation.targets: found {target!r}, which is in the name of no linear layer of the "
                    f"encoder; expected a part of a name such as {list(layers)[-1]}"
                )
        for name, layer in layers.items():
            if any(re.search(target, name) for target in config.targets):
                kind = LoraSwooshLinear if isinstance(layer, SwooshLinear) else LoraLinear
                encoder.set_submodule(name, kind(layer, config.rank, config.scale, config.dropout))


@dataclass
class AdaptersConfig:
    """Bottlenecks at the end of each layer (arXiv 1902.00751)."""

    name: str = "adapters"
    """Which adaptation this is."""
    dim: int = 64
    """Width of the bottlenecks."""

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ValueError(f"dim must be at least 1, got {self.dim}")


class Adapters:
    """Puts a bottleneck into the place that each layer has for it."""

    Config = AdaptersConfig

    def __init__(self, config: AdaptersConfig) -> None:
        self.config = config

    def apply(self, encoder: nn.Module) -> None:
        """See `Adaptation`."""
        slots = [(name, slot) for name, slot in encoder.named_modules() if isinstance(slot, AdapterSlot)]
        for name, slot in slots:
            encoder.set_submodule(name, Adapter(slot.dim, self.config.dim))


ADAPTATIONS: dict[str, type[Adaptation]] = {"none": Nothing, "lora": Lora, "adapters": Adapters}


def adapt(speech: nn.Module, config: Any) -> None:
    """Freezes a speech encoder and adds to it what a configuration of one of `ADAPTATIONS` says; nothing for "none".

    Raises:
        UserError: the configuration does not fit the encoder.
    """
    if isinstance(config, NoneConfig):
        return
    speech.requires_grad_(False)
    ADAPTATIONS[config.name](config).apply(speech.encoder)


def is_added(name: str) -> bool:
    """Whether a parameter of that name was added to an encoder."""
    return LORA in name or ADAPTER in name


def merge(module: nn.Module) -> None:
    """Takes the low-rank changes into the weights of their layers, in place: the same outputs without extra work."""
    changed = [
        (name, layer)
        for name, layer in module.named_modules()
        if isinstance(layer, LoraLinear | LoraSwooshLinear)
    ]
    for name, layer in changed:
        module.set_submodule(name, layer.merged())


def without_additions(tensors: dict[str, Tensor], config: Any, source: str) -> dict[str, Tensor]:
    """The weights of an encoder that had parts added, for one that has none.

    Args:
        tensors: by name.
        config: one of `ADAPTATIONS`, by which the parts were added.
        source: where the weights come from, for the message.

    Raises:
        UserError: adapters, without which the encoder is another one.
    """
    if isinstance(config, AdaptersConfig):
        raise UserError(f"{source}: found an encoder with adapters, expected one without, or one with lora")
    plain = {name: tensor for name, tensor in tensors.items() if not is_added(name)}
    for name in tensors:
        layer, found, kind = name.partition(LORA)
        if found and kind == "up":
            low_rank = tensors[f"{layer}{LORA}down"], tensors[name]
            plain[f"{layer}.weight"] = merged_weight(plain[f"{layer}.weight"], *low_rank, config.scale)
    return plain
