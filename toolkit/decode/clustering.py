"""Speaker clustering: agglomerative, with a threshold and bounds on the number of speakers.

Dimensions: N embeddings, D embedding size, S clusters (speakers).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.cluster.hierarchy import cut_tree, linkage
from scipy.optimize import linear_sum_assignment

from toolkit.decode.embedding import normalize
from toolkit.errors import UserError


@dataclass
class ClusteringConfig:
    """How local speakers are merged into the speakers of a recording."""

    threshold: float = 0.5
    """Cosine distance (0 to 2) up to which two clusters are one speaker; lower it to get more speakers."""
    min_speakers: int = 1
    """At least this many speakers, whatever the threshold says."""
    max_speakers: int = 20
    """At most this many speakers, whatever the threshold says."""
    min_cluster_share: float = 0.0
    """A cluster with a smaller share of all embeddings is dissolved into its nearest larger neighbour."""
    max_embeddings: int = 5000
    """The tree is built over at most this many, evenly picked: time and memory grow with their square."""

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 2:
            raise UserError(f"threshold is a cosine distance, expected 0 to 2, got {self.threshold}")
        if not 1 <= self.min_speakers <= self.max_speakers:
            raise UserError(
                "expected 1 <= min_speakers <= max_speakers, "
                f"got min_speakers={self.min_speakers}, max_speakers={self.max_speakers}"
            )
        if not 0 <= self.min_cluster_share < 1:
            raise UserError(f"min_cluster_share must be in [0, 1), got {self.min_cluster_share}")
        if self.max_embeddings < 2:
            raise UserError(f"max_embeddings must be at least 2, got {self.max_embeddings}")


def agglomerate(embeddings: np.ndarray, config: ClusteringConfig) -> np.ndarray:
    """Average-linkage clustering by cosine distance.

    Args:
        embeddings: (N, D) of any scale, N >= 1.
        config: threshold and bounds. Fewer embeddings than `min_speakers` give as many clusters as
            embeddings.

    Returns:
        (N,) int64 labels, 0 to S - 1 in order of first appearance.
    """
    count = len(embeddings)
    if count == 1:
        return np.zeros(1, dtype=np.int64)
    # Picked evenly rather than at random: the same input always gives the same answer.
    picked = np.unique(np.linspace(0, count - 1, min(count, config.max_embeddings)).round().astype(np.int64))
    units = normalize(np.asarray(embeddings, dtype=np.float64))
    tree = linkage(units[picked], method="average", metric="cosine")
    clusters = int((tree[:, 2] > config.threshold).sum()) + 1
    clusters = min(max(clusters, config.min_speakers), config.max_speakers, len(picked))
    labels = cut_tree(tree, n_clusters=clusters)[:, 0]
    centers = centroids(units[picked], labels)
    sizes = np.bincount(labels)
    # The largest clusters are kept in any case, so that the lower bound on speakers holds.
    keep = sizes >= config.min_cluster_share * len(picked)
    keep[np.argsort(-sizes, kind="stable")[: config.min_speakers]] = True
    if not keep.all() or len(picked) < count:
        nearest = (units @ centers[keep].T).argmax(1)
        own = np.full(count, -1)
        own[picked] = np.where(keep[labels], np.cumsum(keep)[labels] - 1, -1)
        labels = np.where(own >= 0, own, nearest)
    return _by_appearance(labels)


def centroids(embeddings: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Unit-length means of the unit-length members of each cluster: (N, D), (N,) to (S, D)."""
    units = normalize(embeddings)
    return normalize(np.stack([units[labels == label].mean(0) for label in range(labels.max() + 1)]))


def assign(embeddings: np.ndarray, centers: np.ndarray, groups: Sequence[int]) -> np.ndarray:
    """Gives each embedding a near centre, those of a group different ones as far as there are enough.

    The local speakers of one chunk are different people (a cannot-link constraint), so that each chunk is
    matched as a whole: the assignment with the highest total cosine. Those who are left over where a group
    has more members than there are centres go to their nearest centre after all.

    Args:
        embeddings: (N, D).
        centers: (S, D), unit length.
        groups: N group names; members of a group need not be neighbours.

    Returns:
        (N,) int64 centre indices.
    """
    groups = np.asarray(groups)
    similarity = normalize(np.asarray(embeddings, dtype=np.float64)) @ centers.T
    labels = similarity.argmax(1)
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        rows, columns = linear_sum_assignment(similarity[members], maximize=True)
        labels[members[rows]] = columns
    return labels


def _by_appearance(labels: np.ndarray) -> np.ndarray:
    """Renames labels to 0, 1, ... in order of first appearance."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]
