"""K-means over frame features: mini-batches by scikit-learn, mini-batches or Lloyd iterations by PyTorch.

Dimension legend: N frames, D features a frame, K clusters.

All ways start from k-means++; on one machine the seed decides the result. PyTorch draws every random number on the
CPU, so that a GPU goes the same way but for rounding.
"""

import math
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

METHODS = ("sklearn", "minibatch", "lloyd")
"""Mini-batches by scikit-learn on the CPU; mini-batches by PyTorch, with one at a time on the device; all frames in
every pass by PyTorch, with all of them on the device."""

BATCH_SIZE = 10_000
"""Frames of a mini-batch."""

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
    frames: np.ndarray,
    num_clusters: int,
    seed: int = 0,
    method: str = "sklearn",
    device: str | torch.device = "cpu",
    max_passes: int = 100,
) -> KMeans:
    """Fits a codebook to frames.

    Args:
        frames: (N, D) float32 in the memory of the CPU, such as `reservoir` gives.
        num_clusters: K.
        seed: of the start and the mini-batches.
        method: one of METHODS.
        device: where PyTorch computes.
        max_passes: most passes over the frames; every method stops earlier when nothing improves.

    Returns:
        A codebook; its metadata holds method, seed, number of frames, and inertia a frame.

    Raises:
        UserError: too many clusters for int16, or fewer frames than clusters.
    """
    if not 1 <= num_clusters <= MAX_CLUSTERS:
        raise UserError(f"clusters: found {num_clusters}, expected 1 to {MAX_CLUSTERS}")
    if method not in METHODS:
        raise UserError(f"method: found {method!r}, expected one of {', '.join(METHODS)}")
    if len(frames) < num_clusters:
        raise UserError(
            f"clusters: found {num_clusters}, expected at most {len(frames)}, the number of frames"
        )
    on_cpu = torch.from_numpy(frames)
    if method == "sklearn":
        centroids = _by_sklearn(frames, num_clusters, seed, max_passes)
    elif method == "minibatch":
        centroids = minibatch(on_cpu, plus_plus(on_cpu, num_clusters, seed, device), seed, max_passes)
    else:
        start = plus_plus(on_cpu, num_clusters, seed, device)
        centroids = lloyd(on_cpu.to(device), start, max_passes)[0]
    inertia = sum(
        _assign(batch.to(centroids.device), centroids)[1].double().sum() for batch in on_cpu.split(BATCH_SIZE)
    )
    meta = {"method": method, "seed": seed, "num_clusters": num_clusters, "num_frames": len(frames)}
    return KMeans(centroids.cpu(), {**meta, "inertia": inertia.item() / len(frames)})


def reservoir(batches: Iterable[np.ndarray], size: int, seed: int) -> np.ndarray:
    """A uniform sample of at most `size` rows of a stream of arrays (N, D) (Vitter's algorithm R)."""
    rng = np.random.default_rng(seed)
    sample, seen = np.empty((0, 0), np.float32), 0
    for batch in batches:
        if seen == 0:
            # What is not written yet takes no memory.
            sample = np.empty((size, batch.shape[1]), np.float32)
        first = batch[: max(0, size - seen)]
        sample[seen : seen + len(first)] = first
        rest = batch[len(first) :]
        if len(rest):
            # Row t replaces a random one of the t + 1 so far, if that one is in the sample. Of several that
            # want the same place the last wins, as it would one by one.
            rows_so_far = np.arange(seen + len(first) + 1, seen + len(batch) + 1)
            places = (rng.random(len(rest)) * rows_so_far).astype(np.int64)
            wins = places < size
            sample[places[wins]] = rest[wins]
        seen += len(batch)
    return sample[:seen]


def _by_sklearn(frames: np.ndarray, num_clusters: int, seed: int, max_passes: int) -> Tensor:
    from sklearn.cluster import MiniBatchKMeans

    # Settings of HuBERT's first iteration (fairseq, simple_kmeans), but for the number of starts.
    model = MiniBatchKMeans(
        num_clusters,
        init="k-means++",
        n_init=5,
        max_iter=max_passes,
        batch_size=min(BATCH_SIZE, len(frames)),
        init_size=min(len(frames), max(30_000, 3 * num_clusters)),
        max_no_improvement=100,
        reassignment_ratio=0.0,
        tol=0.0,
        random_state=seed,
    )
    return torch.from_numpy(model.fit(frames).cluster_centers_.astype(np.float32))


def minibatch(
    frames: Tensor, centroids: Tensor, seed: int, max_passes: int, tolerance: float = 1e-4
) -> Tensor:
    """Mini-batch k-means (Sculley, "Web-scale k-means clustering", 2010).

    Each centroid is the mean of the frames that it was the nearest to when their batch came; after a pass these keep a
    quarter of their weight, since they were gathered by centroids that have moved on (without this, inertia on
    correlated Gaussian frames was 1 % higher). A centroid that was nearest to no frame of a pass begins anew at one
    that lies far from its own.

    Args:
        frames: (N, D) on the CPU; a batch of them at a time goes to the centroids' device.
        centroids: (K, D) to start from.
        seed: of the batches.
        max_passes: most passes over the frames.
        tolerance: stop when a pass lowers the sum of squared distances by less than this share.

    Returns:
        Centroids (K, D).
    """
    generator = torch.Generator().manual_seed(seed)
    device, least = centroids.device, math.inf
    counts = centroids.new_zeros(len(centroids), dtype=torch.int64)
    for _ in range(max_passes):
        inertia, hits = torch.zeros((), dtype=torch.float64, device=device), torch.zeros_like(counts)
        for places in torch.randperm(len(frames), generator=generator).split(BATCH_SIZE):
            batch = frames[places].to(device)
            labels, distances = _assign(batch, centroids)
            found = torch.bincount(labels, minlength=len(centroids))
            hits += found
            counts += found
            share = (found / counts.clamp(min=1))[:, None].float()
            centroids = torch.lerp(centroids, _means(batch, labels, found), share)
            inertia += distances.double().sum()
        if inertia.item() > (1 - tolerance) * least:
            break
        least = inertia.item()
        empty = torch.nonzero(hits == 0)[:, 0][: len(distances)]
        centroids[empty] = batch[distances.topk(len(empty)).indices]
        counts = hits // 4
    return centroids


def plus_plus(
    frames: Tensor, num_clusters: int, seed: int, device: str | torch.device = "cpu", sample: int = 100
) -> Tensor:
    """Starting centroids (Arthur and Vassilvitskii, "k-means++", 2007), the best of several draws each.

    Args:
        frames: (N, D).
        num_clusters: K.
        seed: of the draws.
        device: where to compute.
        sample: frames a cluster that the draws are made from, at random.

    Returns:
        (K, D) frames, on the device.
    """
    generator = torch.Generator().manual_seed(seed)
    if len(frames) > sample * num_clusters:
        frames = frames[torch.randperm(len(frames), generator=generator)[: sample * num_clusters]]
    # Features far from zero would lose digits in the expanded square.
    centred = frames.to(device)
    centred = centred - centred.mean(0)
    num_draws = 2 + int(np.log(num_clusters))
    draws = torch.rand(num_clusters, num_draws, generator=generator, dtype=torch.float64).to(centred.device)
    norms = centred.square().sum(1)
    chosen = (draws[0, :1] * len(frames)).long()
    nearest = _squared_distances(centred, norms, chosen)[:, 0]
    for draw in draws[1:]:
        total = nearest.double().cumsum(0)
        places = torch.searchsorted(total, draw * total[-1]).clamp(max=len(frames) - 1)
        distances = torch.minimum(nearest[:, None], _squared_distances(centred, norms, places))
        best = distances.sum(0).argmin()
        chosen = torch.cat([chosen, places[best, None]])
        nearest = distances[:, best]
    return frames[chosen.to(frames.device)].to(device)


def lloyd(
    frames: Tensor, centroids: Tensor, max_passes: int, tolerance: float = 1e-4
) -> tuple[Tensor, float]:
    """Lloyd iterations from given centroids, until no centroid moves much.

    An empty cluster moves to a frame that lies farthest from its centroid.

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
        counts = torch.bincount(labels, minlength=len(centroids))
        updated = _means(frames, labels, counts)
        empty = torch.nonzero(counts == 0)[:, 0]
        updated[empty] = frames[distances.topk(len(empty)).indices]
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


def _means(frames: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
    """The mean (K, D) of the frames (N, D) with each label (N,), of which there are `counts` (K,); 0 if none."""
    # Sums over sorted frames: scattered additions on a GPU would come in another order every time.
    ordered = frames[labels.argsort(stable=True)]
    return torch.segment_reduce(ordered, "sum", lengths=counts, initial=0) / counts.clamp(min=1)[:, None]


def _squared_distances(frames: Tensor, norms: Tensor, places: Tensor) -> Tensor:
    """Squared distances (N, P) from all frames to P of them."""
    return (norms[:, None] + norms[places] - 2 * frames @ frames[places].T).clamp(min=0)
