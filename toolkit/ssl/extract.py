"""Frame features of cuts, to be clustered: MFCC, or a layer of a model.

Dimension legend: S samples, T frames, D features a frame.

Time: with a frame shift of k * 10 ms and F frames of 10 ms in an utterance, there are T = ceil(F / k) frames,
and frame i is centred on the 10 ms frame k * i, as in an encoder that subsamples by k. MFCC are averaged over
the 10 ms frames from k * i - k // 2 to k * i + k // 2; a model's frames likewise, if a larger shift than its
own is asked for. With a margin of m, the first m and last m frames of 10 ms are left out before that: an encoder
whose convolutions do not pad has fewer frames, the first of which is centred on the 10 ms frame m (m = 1 for the
waveform front end, 4 for Zipformer's convolutions on filter banks).
"""

import hashlib
import itertools
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d
from torch.nn.utils.rnn import pad_sequence

from toolkit.data.audio import SAMPLE_RATE, BadAudio, load_audio
from toolkit.errors import UserError
from toolkit.nn.features import Mfcc

if TYPE_CHECKING:
    from lhotse.cut import Cut

    from toolkit.models.base import SpeechModel

TAKEN = "after the residual connection"
"""Where in a layer its features are taken: its whole output, as Hugging Face's `hidden_states` and torchaudio have it.
fairseq takes them before the residual, so that its codebooks and labels of the same layer are others."""

CUTS_AT_ONCE = 200
"""Cuts that `draw` sorts by duration."""

RECIPES = {
    "mfcc": ("frame_shift", "cmvn", "margin"),
    "model": ("frame_shift", "model", "sha256", "layer"),
}
"""What `build` needs, for each kind of features."""


class FrameFeatures(Protocol):
    """What computes frame features."""

    def num_frames(self, samples: int) -> int:
        """T for an utterance of so many samples."""

    def __call__(self, utterances: list[Tensor]) -> list[Tensor]:
        """Features (T, D) of utterances (S,) that make at least one frame each."""


class MfccFrames:
    """39 features a frame: 13 MFCC, deltas and their deltas, averaged to a frame shift.

    With `cmvn` each feature gets zero mean and unit variance over the utterance, which takes out much of the
    speaker and the channel, and of the words, too, where utterances are very short. HuBERT does without.

    Raises:
        UserError: a frame shift that is no multiple of 10 ms, or a negative margin.
    """

    def __init__(
        self, frame_shift: float, cmvn: bool = False, margin: int = 0, device: str | torch.device = "cpu"
    ) -> None:
        if margin < 0:
            raise UserError(f"margin: found {margin}, expected 0 or more frames of 10 ms")
        self.mfcc = Mfcc().to(device)
        self.cmvn = cmvn
        self.margin = margin
        self.step = multiple(frame_shift, self.mfcc.frame_shift)

    def num_frames(self, samples: int) -> int:
        frames = self.mfcc.config.num_frames(samples) - 2 * self.margin
        return max(0, -(-frames // self.step))

    @torch.inference_mode()
    def __call__(self, utterances: list[Tensor]) -> list[Tensor]:
        features, lengths = self.mfcc(*_batch(utterances, self.mfcc.window.device))
        rows = [row[:length] for row, length in zip(features, lengths.tolist(), strict=True)]
        rows = [standardize(row) if self.cmvn else row for row in rows]
        return [average(row[self.margin : len(row) - self.margin], self.step) for row in rows]


class ModelFrames:
    """The output of one layer of a model (see TAKEN), averaged to a frame shift.

    Raises:
        UserError: a layer that the model lacks, or a frame shift that is no multiple of the model's.
    """

    def __init__(self, model: "SpeechModel", layer: int, frame_shift: float) -> None:
        num_layers = model.speech.num_layers
        if not 0 <= layer <= num_layers:
            raise UserError(f"layer: found {layer}, expected 0 (the first layer's input) to {num_layers}")
        self.model = model
        self.layer = layer
        self.step = multiple(frame_shift, model.speech.frame_shift)
        self.device = next(model.parameters()).device

    def num_frames(self, samples: int) -> int:
        return -(-self.model.speech.output_lengths(samples) // self.step)

    @torch.inference_mode()
    def __call__(self, utterances: list[Tensor]) -> list[Tensor]:
        output = self.model.features(*_batch(utterances, self.device))
        rows = zip(output.layers[self.layer].float(), output.lengths.tolist(), strict=True)
        return [average(row[:length], self.step) for row, length in rows]


def _batch(utterances: list[Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([len(utterance) for utterance in utterances], device=device)
    return pad_sequence(utterances, batch_first=True).to(device), lengths


def standardize(features: Tensor) -> Tensor:
    """Zero mean and unit variance of each feature, (T, D) -> (T, D); constant features become 0."""
    centred = features - features.mean(0)
    return centred / centred.square().mean(0).sqrt().clamp(min=1e-3)


def average(features: Tensor, step: int) -> Tensor:
    """Means over windows centred on every `step`-th frame, (T, D) -> (ceil(T / step), D), cut at the ends."""
    if step == 1 or len(features) == 0:
        return features
    reach = step // 2
    pooled = avg_pool1d(features.T[None], 2 * reach + 1, step, padding=reach, count_include_pad=False)
    return pooled[0].T


def multiple(frame_shift: float, unit: float) -> int:
    """How many times `unit` a frame shift is; both in seconds."""
    step = round(frame_shift / unit) if math.isfinite(frame_shift) else 0
    if step < 1 or abs(step * unit - frame_shift) > 1e-6:
        raise UserError(f"frame-shift: found {frame_shift} s, expected a multiple of {unit:g} s")
    return step


def mfcc_recipe(frame_shift: float, cmvn: bool = False, margin: int = 0) -> dict[str, Any]:
    """What `build` needs for MFCC, as JSON."""
    return {"kind": "mfcc", "frame_shift": frame_shift, "cmvn": cmvn, "margin": margin}


def model_recipe(folder: str | Path, layer: int, frame_shift: float) -> dict[str, Any]:
    """What `build` needs for a layer of the model in a model directory, as JSON."""
    weights = digest(Path(folder) / "model.safetensors")
    return {
        "kind": "model",
        "model": str(folder),
        "sha256": weights,
        "layer": layer,
        "taken": TAKEN,
        "frame_shift": frame_shift,
    }


def check_recipe(recipe: Any, source: str | Path) -> None:
    """Raises UserError unless `recipe`, which a codebook's file `source` has or lacks, has all that `build` needs."""
    if recipe is None:
        raise UserError(f"{source}: names no features, expected a codebook of python -m toolkit.bin.kmeans")
    kind = recipe.get("kind") if isinstance(recipe, dict) else None
    if kind not in RECIPES:
        raise UserError(f"{source}: features.kind: found {kind!r}, expected one of {', '.join(RECIPES)}")
    for key in RECIPES[kind]:
        if key not in recipe:
            raise UserError(
                f"{source}: features.{key}: missing, expected a codebook of this version's kmeans"
            )


def build(
    recipe: dict[str, Any], load: Callable[..., "SpeechModel"], device: str | torch.device = "cpu"
) -> FrameFeatures:
    """Makes what computes the features of a recipe.

    Args:
        recipe: of `mfcc_recipe` or `model_recipe`.
        load: gives the model of a model directory, `toolkit.load`.
        device: where to compute.

    Raises:
        UserError: the model is missing, or is not the one of the recipe any more.
    """
    if recipe["kind"] == "mfcc":
        return MfccFrames(recipe["frame_shift"], recipe["cmvn"], recipe["margin"], device)
    weights = Path(recipe["model"]) / "model.safetensors"
    if digest(weights) != recipe["sha256"]:
        raise UserError(f"{weights}: another model than the one that was clustered, expected that one")
    return ModelFrames(load(recipe["model"], device), recipe["layer"], recipe["frame_shift"])


def digest(*paths: str | Path) -> str:
    """SHA-256 of a file, or of several one after the other, in hexadecimal; UserError if one is missing."""
    sha = hashlib.sha256()
    for path in paths:
        if not Path(path).is_file():
            raise UserError(f"{path}: no such file")
        with open(path, "rb") as file:
            while block := file.read(2**20):
                sha.update(block)
    return sha.hexdigest()


def extract(
    cuts: Sequence["Cut"], features: FrameFeatures, skipped: list[dict[str, str]], batch_seconds: float = 60.0
) -> Iterator[tuple[int, Tensor]]:
    """Features of the cuts that can be used.

    Args:
        cuts: in any order; cuts of like length are computed together.
        features: what to compute.
        skipped: gets {id, path, reason} of each cut that cannot be used.
        batch_seconds: audio computed together, padding included.

    Yields:
        Position in `cuts` and features (T, D), T > 0; the longest cut first.
    """
    batch: dict[int, Tensor] = {}
    longest = 0
    for position in sorted(range(len(cuts)), key=lambda position: -cuts[position].duration):
        try:
            samples = _read(cuts[position], features)
        except BadAudio as error:
            skipped.append({"id": cuts[position].id, "path": error.path, "reason": error.reason})
            continue
        longest = max(longest, len(samples))
        if batch and longest * (len(batch) + 1) > batch_seconds * SAMPLE_RATE:
            yield from zip(batch, features(list(batch.values())), strict=True)
            batch, longest = {}, len(samples)
        batch[position] = samples
    if batch:
        yield from zip(batch, features(list(batch.values())), strict=True)


def _read(cut: "Cut", features: FrameFeatures) -> Tensor:
    """Samples (S,) that make at least one frame; BadAudio where there are none."""
    if cut.sampling_rate != SAMPLE_RATE:
        raise BadAudio(
            cut.id, f"wrong sampling rate: found {cut.sampling_rate} Hz, expected {SAMPLE_RATE} Hz"
        )
    samples = torch.from_numpy(load_audio(cut))
    if features.num_frames(len(samples)) == 0:
        raise BadAudio(cut.id, f"too short: {len(samples)} samples make no frame")
    return samples


def draw(
    cuts: Iterable["Cut"],
    features: FrameFeatures,
    portion: float,
    seed: int,
    skipped: list[dict[str, str]],
    batch_seconds: float = 60.0,
) -> Iterator[np.ndarray]:
    """Features of a random share of the cuts.

    Whether a cut is drawn depends on the seed and its id alone.

    Args:
        cuts: read once; few are in memory at a time.
        features: what to compute.
        portion: chance of a cut to be drawn.
        seed: decides which.
        skipped, batch_seconds: see `extract`.

    Yields:
        (T, D) float32 for each cut that is drawn and can be used.
    """
    drawn = (cut for cut in cuts if random.Random(f"{seed} {cut.id}").random() < portion)
    while chunk := list(itertools.islice(drawn, CUTS_AT_ONCE)):
        for _, rows in extract(chunk, features, skipped, batch_seconds):
            yield rows.cpu().numpy()
