"""Speaker embeddings: extraction, storage, scoring.

Dimensions: B recordings of a batch, S samples, N embeddings, D embedding size.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from toolkit import checkpoint
from toolkit.errors import UserError

EmbedFunction = Callable[[Tensor, Tensor], Tensor]
"""Waveforms (B, S) and lengths (B,) to embeddings (B, D)."""


@dataclass(frozen=True)
class Embeddings:
    """Named embeddings: row i of `vectors` (N, D) float32 belongs to `ids[i]`."""

    ids: list[str]
    vectors: np.ndarray

    @cached_property
    def rows(self) -> dict[str, int]:
        """Id to row."""
        return {name: row for row, name in enumerate(self.ids)}

    def save(self, path: str | Path) -> None:
        """Writes one safetensors file: the tensor `embeddings`, the ids in its metadata."""
        checkpoint.save(path, {"embeddings": torch.from_numpy(self.vectors)}, {"ids": self.ids})

    @staticmethod
    def load(path: str | Path) -> "Embeddings":
        """Reads what `save` wrote; raises UserError if the file is damaged or holds something else."""
        tensors, meta = checkpoint.load(path)
        vectors, ids = tensors.get("embeddings"), meta.get("ids")
        if vectors is None or ids is None or vectors.ndim != 2 or len(ids) != len(vectors):
            found = ", ".join(sorted(tensors)[:3]) or "nothing"
            raise UserError(f"{path}: found {found}, expected a file of embeddings with their ids")
        return Embeddings(ids, vectors.numpy())

    def centred(self, mean: np.ndarray) -> "Embeddings":
        """The same embeddings less `mean` (D,)."""
        return Embeddings(self.ids, self.vectors - mean)


def cohort_mean(path: str | Path, dim: int) -> np.ndarray:
    """The mean (D,) of the embeddings of other speakers: what recordings share, channel and corpus.

    Where it is not subtracted, all cosines lie nearer to 1.

    Raises:
        UserError: not a file of embeddings, or of embeddings that have not D = `dim` values.
    """
    mean = Embeddings.load(path).vectors.mean(axis=0)
    if len(mean) != dim:
        raise UserError(f"{path}: found {len(mean)} values an embedding, expected {dim}")
    return mean


def cosine_scores(
    embeddings: Embeddings, pairs: Iterable[tuple[int, int]], at_once: int = 65536
) -> Iterator[float]:
    """The cosine of each pair of rows, in order; holds `at_once` pairs in memory."""
    units = normalize(embeddings.vectors)
    pairs = iter(pairs)
    while block := list(islice(pairs, at_once)):
        a, b = np.array(block).T
        yield from np.einsum("nd,nd->n", units[a], units[b], dtype=np.float64).tolist()


@torch.inference_mode()
def embed_all(voices: Sequence[np.ndarray], embed: EmbedFunction, max_samples: int) -> np.ndarray:
    """Embeds recordings of any length, short with short and long with long: N times (S,) to (N, D) float32.

    Args:
        voices: at least one recording.
        embed: the speaker model.
        max_samples: of a padded batch; a longer recording makes a batch of its own.
    """
    lengths = np.array([len(voice) for voice in voices])
    order = np.argsort(lengths, kind="stable")
    parts, first = [], 0
    while first < len(order):
        padded = lengths[order[first:]] * np.arange(1, len(order) - first + 1)
        size = max(1, int((padded <= max_samples).sum()))
        waveforms, counts = pad([voices[index] for index in order[first : first + size]])
        parts.append(embed(waveforms, counts).float().cpu().numpy())
        first += size
    return np.concatenate(parts)[np.argsort(order)]


def normalize(vectors: np.ndarray) -> np.ndarray:
    """Rows (N, D) scaled to length 1; a row of zeros stays one."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def pad(arrays: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Arrays (S_i,) to zero-padded waveforms (B, S) float32 and lengths (B,) int64."""
    rows = [torch.tensor(array, dtype=torch.float32) for array in arrays]
    return pad_sequence(rows, batch_first=True), torch.tensor([len(row) for row in rows])
