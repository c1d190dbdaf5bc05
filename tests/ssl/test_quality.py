"""Label quality against scikit-learn, HuBERT's definitions written out, and cases whose answer is known."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import mutual_info_score
from sklearn.metrics.cluster import contingency_matrix

from toolkit.errors import UserError
from toolkit.ssl.quality import NO_TOKEN, frames_from_ctm, quality, read_ctm

sequences = st.lists(
    st.lists(st.tuples(st.integers(0, 5), st.integers(NO_TOKEN, 4)), min_size=1, max_size=30),
    min_size=1,
    max_size=5,
)


@given(sequences)
def test_equals_scikit_learn(utterances):
    labels = [np.array([z for z, _ in row], np.int16) for row in utterances]
    references = [np.array([y for _, y in row]) for row in utterances]
    pairs = [(y, z) for row in utterances for z, y in row if y != NO_TOKEN]
    if not pairs:
        with pytest.raises(UserError, match="no frame with a token"):
            quality(labels, references)
        return
    tokens, clusters = zip(*pairs, strict=True)
    table = contingency_matrix(tokens, clusters)
    result = quality(labels, references)
    assert result.reference_frames == len(pairs)
    assert result.num_tokens == len(set(tokens))
    assert result.purity == pytest.approx(table.max(0).sum() / len(pairs))
    assert result.cluster_purity == pytest.approx(table.max(1).sum() / len(pairs))
    entropy = mutual_info_score(tokens, tokens)
    expected = mutual_info_score(tokens, clusters) / entropy if entropy > 0 else 0
    assert result.pnmi == pytest.approx(expected, abs=1e-9)


@given(sequences)
def test_usage_by_definition(utterances):
    labels = [np.array([z for z, _ in row], np.int16) for row in utterances]
    result = quality(labels, num_clusters=10)
    everything = [z for row in utterances for z, _ in row]
    shares = [count / len(everything) for count in Counter(everything).values()]
    entropy = -sum(share * math.log(share) for share in shares)
    runs = sum(1 + sum(a[0] != b[0] for a, b in zip(row, row[1:], strict=False)) for row in utterances)
    assert result.num_frames == len(everything)
    assert (result.num_clusters, result.used_clusters) == (10, len(shares))
    assert result.unused_clusters == 10 - len(shares)
    assert result.usage_entropy == pytest.approx(entropy / math.log(10))
    assert result.perplexity == pytest.approx(math.exp(entropy))
    assert result.mean_run == pytest.approx(len(everything) / runs)
    assert result.purity is None and result.to_dict()["pnmi"] is None


def test_perfect_and_useless_labels():
    reference = np.array([0, 0, 1, 1, 2, 2])
    perfect = quality([reference + 3], [reference])
    assert (perfect.purity, perfect.cluster_purity) == (1.0, 1.0)
    assert perfect.pnmi == pytest.approx(1.0)
    useless = quality([np.zeros(6, np.int16)], [reference])
    assert useless.purity == pytest.approx(1 / 3)
    assert useless.pnmi == pytest.approx(0.0, abs=1e-12)
    assert (useless.cluster_purity, useless.perplexity) == (1.0, 1.0)


def test_frames_without_a_label_do_not_count():
    none = np.array([-1], np.int16)
    some = np.array([1, 1, -1, 2], np.int16)
    result = quality([none, some], [np.array([7]), np.array([0, 0, 0, 3])])
    assert (result.num_frames, result.used_clusters, result.mean_run) == (3, 2, 1.5)
    assert (result.reference_frames, result.purity) == (3, 1.0)
    with pytest.raises(UserError, match="no frames"):
        quality([none])


def test_lengths_may_differ_by_two_frames():
    reference = np.array([0, 0, 1, 1])
    assert quality([np.array([5, 5, 6, 6, 7, 7])], [reference]).pnmi == pytest.approx(1.0)
    assert quality([np.array([5, 5])], [reference]).reference_frames == 2
    with pytest.raises(UserError, match="utterance 1: found 7 labels for 4 reference frames"):
        quality([reference, np.zeros(7, int)], [reference, reference])
    with pytest.raises(UserError, match="no frames"):
        quality([])


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_frames_from_ctm(tmp_path):
    path = write(
        tmp_path / "ali.ctm",
        ";; characters\nutt1 1 0.00 0.05 a\nutt1 1 0.05 0.04 b 0.9\n\nutt1 1 0.12 0.20 é\nutt9 1 0 1 q\n",
    )
    frames, tokens = frames_from_ctm(path, {"utt1": 10, "utt2": 5}, 0.02)
    # Frame i is at 20 i + 5 ms: 5, 25, 45 | 65, 85 | 105 is in no token | 125, ...
    assert list(frames) == ["utt1"]
    assert frames["utt1"].tolist() == [0, 0, 0, 1, 1, NO_TOKEN, 2, 2, 2, 2]
    assert tokens == ["a", "b", "é"]
    silent, tokens = frames_from_ctm(path, {"utt1": 10}, 0.02, silence="<sil>")
    assert silent["utt1"].tolist() == [1, 1, 1, 2, 2, 0, 3, 3, 3, 3]
    assert tokens == ["<sil>", "a", "b", "é"]
    assert frames_from_ctm(path, {"utt1": 3}, 0.04)[0]["utt1"].tolist() == [0, 0, 1]
    assert read_ctm(path)["utt1"][1] == (0.05, pytest.approx(0.09), "b")


@pytest.mark.parametrize("line", ["utt1 1 0.0 a", "utt1 1 x 0.1 a", "utt1 1 -1 0.1 a", "utt1 1 0 nan a"])
def test_wrong_lines_are_named(tmp_path, line):
    path = write(tmp_path / "ali.ctm", f"utt1 1 0.0 0.1 a\n{line}\n")
    with pytest.raises(UserError, match="ali.ctm:2: found"):
        read_ctm(path)


def test_missing_alignments_are_named(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_ctm(tmp_path / "none.ctm")
    path = write(tmp_path / "ali.ctm", "utt1 1 0.0 0.1 a\n")
    with pytest.raises(UserError, match="none of the 1 utterances, such as other"):
        frames_from_ctm(path, {"other": 5}, 0.02)


@pytest.mark.parametrize("num_clusters", [-1, 2])
def test_labels_of_a_larger_codebook(num_clusters):
    with pytest.raises(UserError, match=f"clusters: found {num_clusters}, expected more than .* label, 2"):
        quality([np.array([0, 1, 2])], num_clusters=num_clusters)
