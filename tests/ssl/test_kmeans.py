"""K-means against scikit-learn, its file, and that a seed decides everything."""

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans as Reference
from sklearn.datasets import make_blobs

from toolkit.errors import UserError
from toolkit.ssl.kmeans import KMeans, fit, lloyd, plus_plus, reservoir


@pytest.fixture(scope="module")
def blobs() -> np.ndarray:
    features, _ = make_blobs(4000, 12, centers=30, cluster_std=2.0, random_state=0)
    return features.astype(np.float32) + 50


def batches(features: np.ndarray, size: int = 700):
    return (features[start : start + size] for start in range(0, len(features), size))


def test_lloyd_equals_scikit_learn_from_the_same_start(blobs):
    start = blobs[:30]
    reference = Reference(30, init=start, n_init=1, algorithm="lloyd").fit(blobs)
    centroids, inertia = lloyd(torch.from_numpy(blobs), torch.from_numpy(start), max_passes=300)
    assert inertia == pytest.approx(reference.inertia_, rel=1e-4)
    np.testing.assert_allclose(centroids, reference.cluster_centers_, atol=1e-2)


@pytest.mark.parametrize("method", ["minibatch", "lloyd"])
def test_inertia_is_as_good_as_scikit_learns(blobs, method):
    reference = Reference(30, n_init=3, random_state=0).fit(blobs)
    found = fit(batches(blobs), 30, seed=1, method=method)
    assert found.meta["inertia"] * len(blobs) < 1.1 * reference.inertia_
    distances = ((blobs[:, None] - found.centroids.numpy()) ** 2).sum(2)
    assert found.meta["inertia"] == pytest.approx(distances.min(1).mean(), rel=1e-4)
    assert np.array_equal(found.predict(blobs), distances.argmin(1))


@pytest.mark.parametrize("method", ["minibatch", "lloyd"])
def test_the_seed_decides(blobs, method):
    first, again, other = (fit(batches(blobs), 20, seed, method, max_frames=1500) for seed in (1, 1, 2))
    assert torch.equal(first.centroids, again.centroids)
    assert not torch.equal(first.centroids, other.centroids)


@pytest.mark.gpu
def test_lloyd_on_a_gpu_is_deterministic_and_as_good(blobs):
    cpu = fit(batches(blobs), 30, 0, "lloyd")
    first, again = (fit(batches(blobs), 30, 0, "lloyd", "cuda") for _ in range(2))
    assert torch.equal(first.centroids, again.centroids)
    assert first.meta["inertia"] == pytest.approx(cpu.meta["inertia"], rel=0.05)
    assert np.array_equal(first.predict(blobs), first.predict(torch.from_numpy(blobs).cuda()))


def test_pieces_do_not_change_anything(blobs, monkeypatch):
    whole = fit(batches(blobs), 10, method="lloyd")
    monkeypatch.setattr("toolkit.ssl.kmeans.SCORES_AT_ONCE", 1000)
    pieces = fit(batches(blobs), 10, method="lloyd")
    torch.testing.assert_close(pieces.centroids, whole.centroids)
    assert np.array_equal(whole.predict(blobs), pieces.predict(blobs))


def test_empty_clusters_move_to_far_frames():
    frames = torch.tensor([[0.0], [1.0], [10.0], [11.0]])
    centroids, inertia = lloyd(frames, torch.tensor([[0.5], [500.0], [600.0]]), max_passes=10)
    assert inertia <= 0.5
    assert len(set(centroids.flatten().tolist())) == 3


def test_plus_plus_spreads_over_the_clusters(blobs):
    frames = torch.from_numpy(blobs)
    start = plus_plus(frames, 30, seed=0)
    assert all((frames == row).all(1).any() for row in start)
    scattered = frames[torch.randperm(len(frames))[:30]]
    assert lloyd(frames, start, 1)[1] < lloyd(frames, scattered, 1)[1]


def test_plus_plus_copes_with_equal_frames():
    assert plus_plus(torch.ones(10, 2), 3, seed=0).shape == (3, 2)
    assert lloyd(torch.ones(10, 2), plus_plus(torch.ones(10, 2), 3, seed=0), 5)[1] == 0


def test_reservoir_is_uniform():
    rows = np.arange(200, dtype=np.float32)[:, None]
    counts = np.zeros(200)
    for seed in range(2000):
        sample = reservoir(batches(rows, 30), 20, seed)[:, 0].astype(int)
        assert len(set(sample)) == 20
        counts[sample] += 1
    # Each row is kept with probability 0.1: 200 +- 13.4 times.
    assert abs(counts - 200).max() < 5 * 13.4
    assert abs(counts[:20].mean() - 200) < 3 * 13.4 / np.sqrt(20)


def test_reservoir_keeps_a_short_stream_as_it_is():
    rows = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    assert np.array_equal(reservoir(batches(rows, 7), 50, 0), rows)


def test_save_and_load(tmp_path, blobs):
    codebook = fit(batches(blobs), 5, seed=3)
    codebook.meta["features"] = {"kind": "mfcc"}
    codebook.save(tmp_path / "km.safetensors")
    loaded = KMeans.load(tmp_path / "km.safetensors")
    assert torch.equal(loaded.centroids, codebook.centroids)
    assert loaded.meta == codebook.meta
    assert loaded.meta["seed"] == 3
    assert loaded.predict(blobs).dtype == np.int16


def test_other_files_are_refused(tmp_path):
    from toolkit import checkpoint

    checkpoint.save(tmp_path / "model.safetensors", {"weight": torch.zeros(2)}, {"step": 1})
    with pytest.raises(UserError, match="holds no k-means codebook"):
        KMeans.load(tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="no such file"):
        KMeans.load(tmp_path / "none.safetensors")


def test_what_cannot_be_fitted_is_said(blobs):
    with pytest.raises(UserError, match="clusters: found 5000, expected at most 4000"):
        fit(batches(blobs), 5000)
    with pytest.raises(UserError, match="expected 1 to 32767"):
        fit(batches(blobs), 40000)
    with pytest.raises(UserError, match="expected at most 0"):
        fit([], 2)
    with pytest.raises(UserError, match="method: found 'magic'"):
        fit(batches(blobs), 2, method="magic")
    with pytest.raises(ValueError, match="expected .N, 12."):
        fit(batches(blobs), 2).predict(blobs[:, :5])
