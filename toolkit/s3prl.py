"""An upstream for s3prl, the toolkit of the SUPERB benchmark. It has the interface; s3prl itself is not needed.

Dimensions: B batch, S samples, T encoder frames, D encoder width, L layers.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

import toolkit


class UpstreamExpert(nn.Module):
    """The encoder of a model directory, with the methods that s3prl calls.

    Args:
        ckpt: a model directory.
        ignored: what s3prl gives to every upstream, such as `model_config` and `refresh`.

    Raises:
        toolkit.errors.UserError: not a model directory.
    """

    def __init__(self, ckpt: str, **ignored: Any) -> None:
        super().__init__()
        self.speech = toolkit.load(ckpt).speech
        sample_rate = self.speech.config.frontend.sample_rate
        self.downsample_rate = round(self.speech.frame_shift * sample_rate)

    def get_downsample_rates(self, key: str = "hidden_states") -> int:
        """Samples from one frame to the next; the same for all layers."""
        return self.downsample_rate

    def forward(self, wavs: list[Tensor]) -> dict[str, Any]:
        """Waveforms to every layer's frames.

        Args:
            wavs: B times (S,) samples in [-1, 1].

        Returns:
            "hidden_states": L + 1 tensors (B, T, D), the input of the first layer, then the output of each layer;
            "last_hidden_state": the encoder's output (B, T, D).
        """
        lengths = torch.tensor([len(wav) for wav in wavs], device=wavs[0].device)
        output = self.speech(pad_sequence(list(wavs), batch_first=True), lengths)
        return {"hidden_states": list(output.layers), "last_hidden_state": output.frames}
