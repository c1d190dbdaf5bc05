"""K-means against scikit-learn, its file, and that a seed decides everything."""

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans as Reference
from sklearn.cluster import MiniBatchKMeans
from sklearn.datasets import make_blobs

from toolkit.errors import UserError
from toolkit.ssl import kmeans
from toolkit.ssl.kmeans import METHODS, KMeans, fit, lloyd, minibatch, plus_plus, reservoir


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


@pytest.mark.parametrize("method", METHODS)
def test_inertia_is_as_good_as_scikit_learns(blobs, method):
    reference = Reference(30, n_init=3, random_state=0).fit(blobs)
    found = fit(blobs, 30, seed=1, method=method)
    assert found.meta["inertia"] * len(blobs) < 1.1 * reference.inertia_
    distances = ((blobs[:, None] - found.centroids.numpy()) ** 2).sum(2)
    assert found.meta["inertia"] == pytest.approx(distances.min(1).mean(), rel=1e-4)
    assert np.array_equal(found.predict(blobs), distances.argmin(1))


@pytest.mark.parametrize("method", METHODS)
def test_the_seed_decides(blobs, method):
    first, again, other = (fit(blobs, 20, seed, method) for seed in (1, 1, 2))
    assert torch.equal(first.centroids, again.centroids)
    assert not torch.equal(first.centroids, other.centroids)


@pytest.fixture(scope="module")
def speechlike() -> np.ndarray:
    """Frames without clear clusters: correlated, as MFCC are."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(39, 39))
    return (rng.normal(size=(60_000, 39)) @ mixing).astype(np.float32)


def test_mini_batches_are_as_good_as_scikit_learns(speechlike):
    reference = MiniBatchKMeans(100, batch_size=10_000, n_init=5, random_state=0).fit(speechlike)
    found = fit(speechlike, 100, method="minibatch")
    assert found.meta["inertia"] * len(speechlike) < 1.01 * reference.inertia_
    assert len(np.unique(found.predict(speechlike))) == 100


def test_mini_batches_take_a_batch_at_a_time(speechlike, monkeypatch):
    monkeypatch.setattr("toolkit.ssl.kmeans.BATCH_SIZE", 1000)
    seen = []
    assign = kmeans._assign
    monkeypatch.setattr(kmeans, "_assign", lambda frames, c: seen.append(len(frames)) or assign(frames, c))
    start = plus_plus(torch.from_numpy(speechlike), 20, seed=0)
    centroids = minibatch(torch.from_numpy(speechlike), start, seed=0, max_passes=3)
    assert set(seen) == {1000} and len(seen) == 180
    assert (
        lloyd(torch.from_numpy(speechlike), centroids, 0)[1]
        < lloyd(torch.from_numpy(speechlike), start, 0)[1]
    )


def test_clusters_that_got_no_frame_begin_anew(speechlike):
    start = plus_plus(torch.from_numpy(speechlike), 20, seed=0)
    start[:5] = 1000.0
    centroids = minibatch(torch.from_numpy(speechlike), start, seed=0, max_passes=20)
    found = KMeans(centroids).predict(speechlike)
    assert len(np.unique(found)) == 20


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["minibatch", "lloyd"])
def test_a_gpu_is_deterministic_and_as_good(speechlike, method):
    cpu = fit(speechlike, 30, 0, method)
    first, again = (fit(speechlike, 30, 0, method, "cuda") for _ in range(2))
    assert torch.equal(first.centroids, again.centroids)
    assert first.meta["inertia"] == pytest.approx(cpu.meta["inertia"], rel=0.01)
    on_gpu = first.predict(torch.from_numpy(speechlike).cuda())
    # A frame half-way between two clusters may go to either.
    assert (first.predict(speechlike) == on_gpu).mean() > 0.999


def test_pieces_do_not_change_anything(blobs, monkeypatch):
    whole = fit(blobs, 10, method="lloyd")
    monkeypatch.setattr("toolkit.ssl.kmeans.SCORES_AT_ONCE", 1000)
    pieces = fit(blobs, 10, method="lloyd")
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


def test_features_far_from_zero_give_the_same_clusters(blobs):
    """On a grid, so that no frame changes with the offset but by it."""
    near = (blobs * 16).round() / 16 - 50
    starts = [plus_plus(torch.from_numpy(near + offset), 30, seed=0) - offset for offset in (0, 1000)]
    assert torch.equal(*starts)
    labels = [fit(near + offset, 30, seed=0, method="lloyd").predict(near + offset) for offset in (0, 1000)]
    assert np.array_equal(*labels)


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
    assert np.array_equal(reservoir(batches(rows, 7), 80, 0), rows)
    assert reservoir([], 5, 0).shape == (0, 0)


def test_save_and_load(tmp_path, blobs):
    codebook = fit(blobs, 5, seed=3)
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
        fit(blobs, 5000)
    with pytest.raises(UserError, match="expected 1 to 32767"):
        fit(blobs, 40000)
    with pytest.raises(UserError, match="expected at most 0"):
        fit(blobs[:0], 2)
    with pytest.raises(UserError, match="method: found 'magic'"):
        fit(blobs, 2, method="magic")
    with pytest.raises(ValueError, match="expected .N, 12."):
        fit(blobs, 2).predict(blobs[:, :5])
