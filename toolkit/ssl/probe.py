"""A linear probe: how well one linear layer tells a frame's phone from frozen features.

Dimensions: N frames, D features a frame, C tokens.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from toolkit.errors import UserError
from toolkit.progress import progress
from toolkit.ssl.extract import FrameFeatures, extract
from toolkit.ssl.quality import NO_TOKEN

if TYPE_CHECKING:
    from lhotse.cut import Cut

Features = dict[str, Tensor]
"""(T, D) of each utterance."""


class LinearProbe:
    """Multinomial logistic regression on standardised features.

    Args:
        features: (N, D) to learn from.
        tokens: (N,) int64, the token of each frame.
        num_tokens: C; tokens that do not occur among `tokens` can be told, too, though badly.
        penalty: half the squared weights times this is added to the summed cross-entropy, as the inverse of
            scikit-learn's C.
        updates: most iterations of L-BFGS.
    """

    def __init__(
        self, features: Tensor, tokens: Tensor, num_tokens: int, penalty: float = 1.0, updates: int = 60
    ) -> None:
        self.mean = features.mean(0)
        # A feature that never changes tells nothing; what it is divided by does not matter.
        self.deviation = (features - self.mean).square().mean(0).sqrt().clamp(min=1e-6)
        x = (features - self.mean) / self.deviation
        # Features go together, which makes for long narrow valleys. The optimiser moves in directions in which they do
        # not, where it needs a fraction of the steps; what it minimises is the same.
        spread, directions = torch.linalg.eigh(x.T @ x / len(x))
        whiten = directions * (spread.clamp(min=0) + penalty / len(x)).rsqrt()
        x = x @ whiten
        turned = x.new_zeros(x.shape[1], num_tokens, requires_grad=True)
        self.bias = x.new_zeros(num_tokens, requires_grad=True)
        optimizer = torch.optim.LBFGS(
            [turned, self.bias], max_iter=updates, tolerance_grad=1e-5, line_search_fn="strong_wolfe"
        )

        def loss() -> Tensor:
            optimizer.zero_grad()
            error = cross_entropy(x @ turned + self.bias, tokens)
            value = error + penalty / (2 * len(x)) * (whiten @ turned).square().sum()
            value.backward()
            return value

        optimizer.step(loss)
        self.weight = whiten @ turned.detach()

    @torch.no_grad()
    def scores(self, features: Tensor) -> Tensor:
        """(N, D) features to (N, C) log-probabilities, but for a constant of each frame."""
        return (features - self.mean) / self.deviation @ self.weight + self.bias


@dataclass
class Accuracy:
    """How many frames of each utterance were told right."""

    right: np.ndarray
    """Frames told right, a number for each utterance."""
    frames: np.ndarray
    """Frames that have a token, likewise."""

    @property
    def mean(self) -> float:
        """Share of frames told right."""
        return float(self.right.sum() / self.frames.sum())


def read_features(
    cuts: Sequence["Cut"], features: FrameFeatures, skipped: list[dict[str, str]], batch_seconds: float
) -> Features:
    """Features (T, D) of each cut that can be used; see `extract`."""
    found = extract(cuts, features, skipped, batch_seconds)
    rows = {cuts[position].id: frames for position, frames in progress(found, len(cuts), "features")}
    return dict(sorted(rows.items()))


def fit(
    features: Features, references: Mapping[str, np.ndarray], num_tokens: int, max_frames: int, seed: int
) -> LinearProbe:
    """Fits a probe to the frames that have a token.

    Args:
        features: of each utterance.
        references: token numbers (T,) of each utterance, NO_TOKEN where there is none.
        num_tokens: C.
        max_frames: if there are more, so many are drawn.
        seed: decides which.

    Raises:
        UserError: no frame has a token.
    """
    pairs = list(_aligned(features, references))
    x = torch.cat([rows for rows, _ in pairs])
    y = torch.cat([tokens for _, tokens in pairs])
    if len(y) == 0:
        raise UserError("train-cuts: found no frame with a token, expected at least one")
    if len(y) > max_frames:
        chosen = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))[:max_frames]
        x, y = x[chosen.to(x.device)], y[chosen.to(y.device)]
    return LinearProbe(x, y, num_tokens)


def measure(probe: LinearProbe, features: Features, references: Mapping[str, np.ndarray]) -> Accuracy:
    """Accuracy on the frames that have a token; UserError if there is none."""
    right, frames = [], []
    for rows, tokens in _aligned(features, references):
        right.append(int((probe.scores(rows).argmax(1) == tokens).sum()))
        frames.append(len(tokens))
    return _accuracy(right, frames)


def majority(
    train: Mapping[str, np.ndarray], test: Mapping[str, np.ndarray], num_tokens: int
) -> tuple[int, Accuracy]:
    """The most frequent token of the training utterances, and how often it is right in those of the test."""
    everything = np.concatenate([row[row != NO_TOKEN] for row in train.values()])
    token = int(np.bincount(everything, minlength=num_tokens).argmax())
    rows = [row[row != NO_TOKEN] for row in test.values()]
    return token, _accuracy([int((row == token).sum()) for row in rows], [len(row) for row in rows])


def _accuracy(right: list[int], frames: list[int]) -> Accuracy:
    if sum(frames) == 0:
        raise UserError("found no frame with a token in the cuts to be measured, expected at least one")
    return Accuracy(np.array(right), np.array(frames))


def _aligned(features: Features, references: Mapping[str, np.ndarray]) -> Iterator[tuple[Tensor, Tensor]]:
    """Features and tokens of the frames of each utterance that have a token."""
    for name, rows in features.items():
        if name in references:
            tokens = torch.from_numpy(references[name]).to(rows.device)
            known = tokens != NO_TOKEN
            yield rows[known].float(), tokens[known]
