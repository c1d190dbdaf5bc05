"""Embeddings: batching that changes nothing, storage, scores."""

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import cosine_similarity

from toolkit import checkpoint
from toolkit.decode.embedding import Embeddings, cohort_mean, cosine_scores, embed_all, pad
from toolkit.errors import UserError


def moments(waveforms, lengths):
    """A speaker model of two numbers: mean and mean square over what is not padding."""
    return torch.stack([waveforms.sum(1) / lengths, waveforms.square().sum(1) / lengths], dim=1)


def test_batches_are_sorted_bounded_and_put_back_in_order():
    rng = np.random.default_rng(0)
    voices = [rng.standard_normal(n).astype(np.float32) for n in (50, 10, 400, 11, 49, 12)]
    seen = []

    def spy(waveforms, lengths):
        seen.append(lengths.tolist())
        return moments(waveforms, lengths)

    found = embed_all(voices, spy, max_samples=100)
    assert seen == [[10, 11, 12], [49, 50], [400]]
    np.testing.assert_allclose(found, [[v.mean(), np.square(v).mean()] for v in voices], atol=1e-5)


def test_pad():
    waveforms, lengths = pad([np.ones(2, np.float32), np.ones(3, np.float32)])
    assert waveforms.tolist() == [[1, 1, 0], [1, 1, 1]] and lengths.tolist() == [2, 3]


def test_store_round_trip_is_exact_and_repeatable(tmp_path):
    embeddings = Embeddings(["b", "a", "é ü"], np.random.default_rng(0).standard_normal((3, 4)).astype("f"))
    for name in ("one", "two"):
        embeddings.save(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    loaded = Embeddings.load(tmp_path / "one")
    assert loaded.ids == embeddings.ids and np.array_equal(loaded.vectors, embeddings.vectors)
    assert loaded.rows == {"b": 0, "a": 1, "é ü": 2}


def test_store_that_is_none(tmp_path):
    checkpoint.save(tmp_path / "weights", {"encoder.weight": torch.zeros(2)})
    with pytest.raises(UserError, match=r"weights: found encoder.weight, expected a file of embeddings"):
        Embeddings.load(tmp_path / "weights")
    (tmp_path / "short").write_bytes(b"\x10\x00\x00")
    with pytest.raises(UserError, match="short: damaged"):
        Embeddings.load(tmp_path / "short")


def test_cosines_agree_with_sklearn():
    rng = np.random.default_rng(1)
    embeddings = Embeddings(list("abcd"), rng.standard_normal((4, 8)).astype("f"))
    pairs = [(i, j) for i in range(4) for j in range(4)]
    expected = cosine_similarity(embeddings.vectors).ravel()
    np.testing.assert_allclose(list(cosine_scores(embeddings, pairs, at_once=5)), expected, atol=1e-6)


def test_centring(tmp_path):
    embeddings = Embeddings(["a"], np.array([[1.0, 2.0]], "f"))
    assert embeddings.centred(np.array([1.0, 1.0], "f")).vectors.tolist() == [[0, 1]]
    cohort = tmp_path / "cohort.safetensors"
    Embeddings(["a", "b"], np.array([[1, 2, 3], [3, 2, 1]], "f")).save(cohort)
    assert cohort_mean(cohort, 3).tolist() == [2, 2, 2]
    with pytest.raises(UserError, match="3 values an embedding, expected 2"):
        cohort_mean(cohort, 2)
