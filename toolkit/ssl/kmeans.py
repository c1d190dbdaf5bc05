"""K-means over frame features: mini-batches on the CPU (scikit-learn), Lloyd iterations on a GPU (PyTorch).

Dimension legend: N frames, D features a frame, K clusters.

Both ways start from k-means++; on one machine the seed decides the result.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from toolkit import checkpoint
from toolkit.errors import UserError

MAX_CLUSTERS = 2**15 - 1
"""Labels are stored as int16."""

SCORES_AT_ONCE = 2**24
"""Distances (frames x clusters) held at a time."""


@dataclass
class KMeans:
    """A codebook: what `fit` returns and `labels.py` applies."""

    centroids: Tensor
    """(K, D) float32."""
    meta: dict[str, Any] = field(default_factory=dict)
    """What made it: features, frame shift, seed, inertia; anything that JSON holds."""

    def predict(self, features: np.ndarray | Tensor) -> np.ndarray:
        """The nearest centroid of each frame.

        Args:
            features: (N, D), an array or a tensor on any device.

        Returns:
            (N,) int16.

        Raises:
            UserError: features of another dimension.
        """
        features = torch.as_tensor(features, dtype=torch.float32)
        if features.ndim != 2 or features.shape[1] != self.centroids.shape[1]:
            raise UserError(
                f"codebook: found features {tuple(features.shape)}, expected (N, {self.centroids.shape[1]}) as it "
                "was made of"
            )
        labels = _assign(features, self.centroids.to(features.device))[0]
        return labels.to(torch.int16).cpu().numpy()

    def save(self, path: str | Path) -> None:
        """Writes one safetensors file, metadata inside, atomically."""
        checkpoint.save(path, {"centroids": self.centroids}, {"kind": "kmeans", **self.meta})

    @classmethod
    def load(cls, path: str | Path) -> "KMeans":
        """Reads what `save` wrote.

        Raises:
            UserError: missing, damaged, or not a k-means file.
        """
        tensors, meta = checkpoint.load(path)
        if meta.pop("kind", None) != "kmeans" or "centroids" not in tensors:
            raise UserError(
                f"{path}: holds no k-means codebook, expected a file of python -m toolkit.bin.kmeans"
            )
        return cls(tensors["centroids"], meta)


def fit(
    batches: Iterable[np.ndarray],
    num_clusters: int,
    seed: int = 0,
    method: str = "minibatch",
    device: str = "cpu",
    max_frames: int = 1_000_000,
    max_passes: int = 100,
) -> KMeans:
    """Fits a codebook to a stream of frames.

    Args:
        batches: arrays (N, D), read once; memory holds a uniform sample of `max_frames` frames.
        num_clusters: K.
        seed: of the sample, the start and the mini-batches.
        method: "minibatch" (scikit-learn) or "lloyd" (PyTorch, on `device`).
        device: where Lloyd iterations run.
        max_frames: frames that are kept for fitting.
        max_passes: most passes over these frames; both methods stop earlier when nothing improves.

    Returns:
        A codebook; its metadata holds method, seed, number of frames, and inertia a frame.

    Raises:
        UserError: too many clusters for int16, or fewer frames than clusters.
    """
    if not 1 <= num_clusters <= MAX_CLUSTERS:
        raise UserError(f"clusters: found {num_clusters}, expected 1 to {MAX_CLUSTERS}")
    if method not in ("minibatch", "lloyd"):
        raise UserError(f"method: found {method!r}, expected minibatch or lloyd")
    frames = reservoir(batches, max_frames, seed)
    if len(frames) < num_clusters:
        raise UserError(
            f"clusters: found {num_clusters}, expected at most {len(frames)}, the number of frames"
        )
    if method == "minibatch":
        centroids = _minibatch(frames, num_clusters, seed, max_passes)
        inertia = _assign(torch.from_numpy(frames), centroids)[1].double().sum().item()
    else:
        on_device = torch.from_numpy(frames).to(device)
        start = plus_plus(on_device, num_clusters, seed)
        centroids, inertia = lloyd(on_device, start, max_passes)
    meta = {"method": method, "seed": seed, "num_clusters": num_clusters, "num_frames": len(frames)}
    return KMeans(centroids.cpu(), {**meta, "inertia": inertia / len(frames)})


def reservoir(batches: Iterable[np.ndarray], size: int, seed: int) -> np.ndarray:
    """A uniform sample of at most `size` rows of a stream of arrays (N, D) (Vitter's algorithm R)."""
    rng = np.random.default_rng(seed)
    kept: list[np.ndarray] = []
    sample, seen = None, 0
    for batch in batches:
        batch = np.asarray(batch, np.float32)
        free = max(0, size - seen)
        kept.append(batch[:free])
        rest = batch[free:]
        if len(rest):
            if sample is None:
                sample, kept = np.concatenate(kept), []
            # Row t replaces a random one of the t + 1 so far, if that one is in the sample. Of several that
            # want the same place the last wins, as it would one by one.
            places = (rng.random(len(rest)) * np.arange(seen + free + 1, seen + len(batch) + 1)).astype(
                np.int64
            )
            wins = places < size
            sample[places[wins]] = rest[wins]
        seen += len(batch)
    if sample is not None:
        return sample
    return np.concatenate(kept) if kept else np.zeros((0, 0), np.float32)


def _minibatch(frames: np.ndarray, num_clusters: int, seed: int, max_passes: int) -> Tensor:
    from sklearn.cluster import MiniBatchKMeans

    # Settings of HuBERT's first iteration (fairseq, simple_kmeans), but for the number of starts.
    model = MiniBatchKMeans(
        num_clusters,
        init="k-means++",
        n_init=5,
        max_iter=max_passes,
        batch_size=min(10_000, len(frames)),
        init_size=min(len(frames), max(30_000, 3 * num_clusters)),
        max_no_improvement=100,
        reassignment_ratio=0.0,
        tol=0.0,
        random_state=seed,
    )
    return torch.from_numpy(model.fit(frames).cluster_centers_.astype(np.float32))


def plus_plus(frames: Tensor, num_clusters: int, seed: int, sample: int = 100) -> Tensor:
    """Starting centroids (Arthur and Vassilvitskii, "k-means++", 2007), the best of several draws each.

    Args:
        frames: (N, D).
        num_clusters: K.
        seed: of the draws.
        sample: frames a cluster that the draws are made from, at random.

    Returns:
        (K, D) frames.
    """
    generator = torch.Generator().manual_seed(seed)
    if len(frames) > sample * num_clusters:
        order = torch.randperm(len(frames), generator=generator)
        frames = frames[order[: sample * num_clusters].to(frames.device)]
    num_draws = 2 + int(np.log(num_clusters))
    draws = torch.rand(num_clusters, num_draws, generator=generator, dtype=torch.float64).to(frames.device)
    norms = frames.square().sum(1)
    chosen = (draws[0, :1] * len(frames)).long()
    nearest = _squared_distances(frames, norms, chosen)[:, 0]
    for draw in draws[1:]:
        total = nearest.double().cumsum(0)
        places = torch.searchsorted(total, draw * total[-1]).clamp(max=len(frames) - 1)
        distances = torch.minimum(nearest[:, None], _squared_distances(frames, norms, places))
        best = distances.sum(0).argmin()
        chosen = torch.cat([chosen, places[best, None]])
        nearest = distances[:, best]
    return frames[chosen]


def lloyd(
    frames: Tensor, centroids: Tensor, max_passes: int, tolerance: float = 1e-4
) -> tuple[Tensor, float]:
    """Lloyd iterations from given centroids, until no centroid moves much.

    Args:
        frames: (N, D) on any device.
        centroids: (K, D) to start from.
        max_passes: most passes over the frames.
        tolerance: stop when the centroids' squared moves sum to less than this share of the features' mean
            variance (scikit-learn's rule).

    Returns:
        Centroids (K, D) and the inertia, the sum of squared distances.
    """
    limit = tolerance * frames.var(0, correction=0).mean().item()
    for _ in range(max_passes):
        labels, distances = _assign(frames, centroids)
        updated = _means(frames, labels, distances, len(centroids))
        moved = (updated - centroids).square().sum().item()
        centroids = updated
        if moved <= limit:
            break
    return centroids, _assign(frames, centroids)[1].double().sum().item()


def _assign(frames: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Label (N,) and squared distance (N,) of the nearest centroid."""
    # Features far from zero would lose digits in the expanded square.
    centre = centroids.mean(0)
    centroids = centroids - centre
    norms = centroids.square().sum(1)
    labels, distances = [], []
    for piece in (frames - centre).split(max(1, SCORES_AT_ONCE // len(centroids))):
        least, nearest = torch.addmm(norms, piece, centroids.T, alpha=-2).min(1)
        labels.append(nearest)
        distances.append((least + piece.square().sum(1)).clamp(min=0))
    return torch.cat(labels), torch.cat(distances)


def _means(frames: Tensor, labels: Tensor, distances: Tensor, num_clusters: int) -> Tensor:
    """The mean (K, D) of each cluster; an empty one moves to a frame that lies farthest from its centroid."""
    # Sums over sorted frames: scattered additions on a GPU would come in another order every time.
    counts = torch.bincount(labels, minlength=num_clusters)
    means = torch.segment_reduce(frames[labels.argsort(stable=True)], "mean", lengths=counts)
    empty = torch.nonzero(counts == 0)[:, 0]
    means[empty] = frames[distances.topk(len(empty)).indices]
    return means


def _squared_distances(frames: Tensor, norms: Tensor, places: Tensor) -> Tensor:
    """Squared distances (N, P) from all frames to P of them."""
    return (norms[:, None] + norms[places] - 2 * frames @ frames[places].T).clamp(min=0)
