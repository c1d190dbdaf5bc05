"""Speaker clustering against scikit-learn, its bounds, and the rule that a chunk's speakers differ."""

import itertools

import numpy as np
import pytest
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics import adjusted_rand_score

from toolkit.decode.clustering import ClusteringConfig, agglomerate, assign, centroids
from toolkit.decode.embedding import normalize
from toolkit.errors import UserError


def blobs(rng, speakers, each, spread):
    centers = rng.standard_normal((speakers, 16))
    return np.concatenate([center + spread * rng.standard_normal((each, 16)) for center in centers])


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("threshold", [0.2, 0.6, 0.9, 1.1])
def test_threshold_agrees_with_sklearn(seed, threshold):
    embeddings = blobs(np.random.default_rng(seed), 4, 12, 0.8)
    expected = AgglomerativeClustering(
        n_clusters=None, metric="cosine", linkage="average", distance_threshold=threshold
    ).fit_predict(embeddings)
    found = agglomerate(embeddings, ClusteringConfig(threshold=threshold))
    # The bound on the number of speakers is part of what is tested, where the threshold leaves more of them.
    if expected.max() < 20:
        assert adjusted_rand_score(expected, found) == 1
    else:
        assert found.max() == 19


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("num", [1, 2, 5, 12])
def test_number_of_speakers_agrees_with_sklearn(seed, num):
    embeddings = blobs(np.random.default_rng(seed), 3, 10, 1.0)
    expected = AgglomerativeClustering(n_clusters=num, metric="cosine", linkage="average").fit_predict(
        embeddings
    )
    found = agglomerate(embeddings, ClusteringConfig(min_speakers=num, max_speakers=num))
    assert adjusted_rand_score(expected, found) == 1


def test_bounds_hold_whatever_the_threshold():
    embeddings = blobs(np.random.default_rng(0), 3, 10, 0.1)
    assert agglomerate(embeddings, ClusteringConfig(threshold=0.0, max_speakers=6)).max() == 5
    assert agglomerate(embeddings, ClusteringConfig(threshold=2.0, min_speakers=2)).max() == 1
    assert agglomerate(embeddings[:3], ClusteringConfig(min_speakers=5)).tolist() == [0, 1, 2]
    assert agglomerate(embeddings[:1], ClusteringConfig()).tolist() == [0]


def test_labels_are_numbered_by_appearance():
    a, b = np.eye(2)
    assert agglomerate(np.stack([b, a, a, b, a]), ClusteringConfig()).tolist() == [0, 1, 1, 0, 1]


def test_equal_embeddings_still_make_the_number_asked_for():
    found = agglomerate(np.ones((6, 4)), ClusteringConfig(min_speakers=3, max_speakers=3))
    assert len(set(found.tolist())) == 3


def test_small_clusters_are_dissolved_but_not_below_the_minimum():
    rng = np.random.default_rng(0)
    directions = np.eye(16)[:3]
    embeddings = np.repeat(directions, [20, 20, 1], axis=0) + 0.01 * rng.standard_normal((41, 16))
    assert agglomerate(embeddings, ClusteringConfig()).max() == 2
    dissolved = agglomerate(embeddings, ClusteringConfig(min_cluster_share=0.1))
    assert dissolved.max() == 1 and dissolved[:40].tolist() == [0] * 20 + [1] * 20
    assert agglomerate(embeddings, ClusteringConfig(min_cluster_share=0.1, min_speakers=3)).max() == 2


def test_a_sample_of_many_embeddings_gives_the_same_clusters():
    embeddings = blobs(np.random.default_rng(3), 3, 200, 0.1)
    found = agglomerate(embeddings, ClusteringConfig(max_embeddings=50))
    assert adjusted_rand_score(np.repeat(range(3), 200), found) == 1


def test_centroids_are_unit_means():
    embeddings = np.array([[2.0, 0.0], [0.0, 3.0], [-5.0, 0.0]])
    found = centroids(embeddings, np.array([0, 0, 1]))
    np.testing.assert_allclose(found, [[2**-0.5, 2**-0.5], [-1, 0]])


@pytest.mark.parametrize("seed", range(10))
def test_assignment_is_the_best_one_without_repeats(seed):
    rng = np.random.default_rng(seed)
    embeddings, centers = rng.standard_normal((9, 4)), normalize(rng.standard_normal((4, 4)))
    groups = rng.permutation([0, 0, 0, 1, 1, 2, 3, 3, 3])
    found = assign(embeddings, centers, groups)
    cosines = normalize(embeddings) @ centers.T
    for group in range(4):
        members = np.flatnonzero(groups == group)
        best = max(
            itertools.permutations(range(4), len(members)),
            key=lambda order: sum(cosines[m, c] for m, c in zip(members, order, strict=True)),
        )
        assert tuple(found[members]) == best


def test_assignment_repeats_only_where_centres_are_few():
    embeddings = np.array([[1.0, 0.2], [1.0, 0.0], [0.0, 1.0]])
    assert assign(embeddings, np.eye(2), [7, 7, 7]).tolist() == [0, 0, 1]
    assert assign(embeddings, np.eye(2), [7, 7, 8]).tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"threshold": 3.0}, "threshold is a cosine distance"),
        ({"min_speakers": 3, "max_speakers": 2}, "min_speakers=3, max_speakers=2"),
        ({"min_speakers": 0}, "1 <= min_speakers"),
        ({"min_cluster_share": 1.0}, "min_cluster_share"),
        ({"max_embeddings": 1}, "max_embeddings"),
    ],
)
def test_impossible_settings(values, message):
    with pytest.raises(UserError, match=message):
        ClusteringConfig(**values)
