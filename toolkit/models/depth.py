"""How deep in an encoder a parameter lies, for learning rates that fall from layer to layer."""

import re

from toolkit.models.base import SpeechEncoder
from toolkit.models.transformer import TransformerEncoder

LAYER = re.compile(r"(stacks\.\d+\.)?layers\.\d+\.")


def layers_above(speech: SpeechEncoder) -> dict[str, int]:
    """Parameter -> how many layers come after the one that it belongs to.

    What comes before the first layer counts as a layer below it; what comes after the last one, or belongs to a whole
    stack of a Zipformer, counts with the last layer before it. The layers of stacks are counted in their order.
    """
    layers: list[str] = []
    numbers = dict.fromkeys((f"frontend.{name}" for name, _ in speech.frontend.named_parameters()), 0)
    # Modules are registered in the order of their use.
    for name, _ in speech.encoder.named_parameters():
        if (match := LAYER.match(name)) and match[0] not in layers:
            layers.append(match[0])
        numbers[f"encoder.{name}"] = len(layers)
    if isinstance(speech.encoder, TransformerEncoder) and speech.encoder.config.norm_first:
        # But for this norm, which has two places.
        numbers.update(dict.fromkeys(["encoder.norm.weight", "encoder.norm.bias"], len(layers)))
    return {name: len(layers) - number for name, number in numbers.items()}
