"""Filter banks of audio that arrives in pieces: the same numbers as of the whole.

Dimensions: S samples, T frames, F features.
"""

from dataclasses import replace

import torch
from torch import Tensor

from toolkit.nn.features import Fbank
from toolkit.nn.spectral import extend


class OnlineFbank:
    """The filter banks of one recording, frame by frame as soon as all samples of a frame are there.

    Args:
        fbank: what computes them for whole recordings, in evaluation.
    """

    def __init__(self, fbank: Fbank) -> None:
        self.config = fbank.config
        device = fbank.window.device
        # Mirrored at the start and at the end of the recording, the samples make whole windows only.
        self.whole = Fbank(replace(fbank.config, snip_edges=True)).to(device).eval()
        self.held = torch.zeros(0, device=device)
        self.samples = self.frames = 0
        self.started = self.config.span(1)[0] == 0

    def accept(self, samples: Tensor) -> Tensor:
        """The next samples (S,), in [-1, 1], to the frames (T, F) that they complete; T may be 0."""
        self.samples += len(samples)
        self.held = torch.cat([self.held, samples.to(self.held)])
        start, stop = self.config.span(1)
        if not self.started:
            if self.samples < stop:
                return self._frames(self.held[:0])
            self.held = extend(self.held, start, self.samples)
            self.started = True
        return self._frames(self.held)

    def finish(self) -> Tensor:
        """The frames (T, F) at the end of the recording."""
        rest = self.config.num_frames(self.samples) - self.frames
        if rest <= 0:
            return self._frames(self.held[:0])
        start, stop = self.config.span(rest)
        # The held samples begin where the next frame does, or with the recording.
        start, stop = (0, stop - start) if self.started else (start, stop)
        return self._frames(extend(self.held, start, stop))

    def _frames(self, samples: Tensor) -> Tensor:
        count = self.whole.config.num_frames(len(samples))
        if not count:
            return samples.new_zeros(0, self.whole.dim)
        self.frames += count
        self.held = samples[count * self.config.window_shift :]
        return self.whole(samples[None], torch.tensor([len(samples)], device=samples.device))[0][0]
