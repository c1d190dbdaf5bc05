"""Greedy search and alignment against plain Python."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.decode.grammar import LogProbs
from toolkit.decode.ctc import CtcGreedy, CtcGreedyConfig, align, greedy
from toolkit.errors import UserError


def with_best_path(path, symbols=5, seed=0):
    """(T, V) log-probabilities whose best symbols are `path`."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(len(path), symbols, generator=generator)
    for frame, symbol in enumerate(path):
        scores[frame, symbol] = 5 + torch.rand((), generator=generator)
    return scores.log_softmax(-1)


def runs(path):
    """(symbol, first frame, frame after the last) of each run of equal symbols that are not blank."""
    frame = 0
    for symbol, group in itertools.groupby(path):
        count = len(list(group))
        if symbol:
            yield symbol, frame, frame + count
        frame += count


@given(st.lists(st.lists(st.integers(0, 4), max_size=12), min_size=1, max_size=4))
def test_greedy(paths):
    longest = max(1, *map(len, paths))
    # Padding holds a symbol, which must not be read.
    log_probs = torch.stack([with_best_path([*path, *[3] * (longest - len(path))]) for path in paths])
    found = greedy(log_probs, torch.tensor([len(path) for path in paths]))
    for row, path, (best,) in zip(log_probs, paths, found, strict=True):
        tokens = best.tokens
        assert best.score == pytest.approx(row[: len(path)].max(-1).values.sum().item(), abs=1e-4)
        expected = list(runs(path))
        assert [token.id for token in tokens] == [symbol for symbol, _, _ in expected]
        for token, (symbol, start, end) in zip(tokens, expected, strict=True):
            assert (token.start, token.end) == (start, end)
            assert token.score == pytest.approx(row[start:end, symbol].mean().item(), abs=1e-4)


def best_path(log_probs, tokens):
    """The most likely of all paths that collapse to the tokens, and its log-probability."""
    frames, symbols = log_probs.shape
    rows = log_probs.double().tolist()
    paths = (
        path
        for path in itertools.product({0, *tokens}, repeat=frames)
        if [symbol for symbol, _ in itertools.groupby(path) if symbol] == tokens
    )
    return max((sum(row[s] for row, s in zip(rows, path, strict=True)), path) for path in paths)


@pytest.mark.parametrize("tokens", [[1], [1, 2], [2, 2], [1, 2, 1], [1, 1, 2], [3, 3, 3]])
def test_alignment_is_the_best_of_all_paths(tokens):
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        log_probs = (3 * torch.randn(7, 4, generator=generator)).log_softmax(-1)
        _, path = best_path(log_probs, tokens)
        found = align(log_probs, tokens)
        expected = list(runs(path))
        assert [(t.id, t.start, t.end) for t in found] == expected
        for token, (symbol, start, end) in zip(found, expected, strict=True):
            assert token.score == pytest.approx(log_probs[start:end, symbol].mean().item(), abs=1e-4)


def test_alignment_with_exactly_enough_frames():
    log_probs = with_best_path([0, 0, 0])
    assert [(t.id, t.start, t.end) for t in align(log_probs, [2, 2])] == [(2, 0, 1), (2, 2, 3)]
    assert align(log_probs, []) == []


def test_tokens_that_do_not_fit():
    with pytest.raises(ValueError, match="3 tokens need 4 frames, found 3"):
        align(with_best_path([1, 2, 3]), [1, 2, 2])


@given(st.lists(st.integers(0, 2), max_size=12), st.lists(st.integers(0, 12), max_size=3), st.integers(0, 5))
def test_greedy_search_in_pieces(path, cuts, first_frame):
    log_probs = with_best_path(path or [0])[: len(path)]
    search = CtcGreedy(CtcGreedyConfig(), LogProbs(), None, "cpu")
    state = search.start(first_frame)
    bounds = [0, *sorted(min(cut, len(path)) for cut in cuts), len(path)]
    for begin, end in itertools.pairwise(bounds):
        (state,) = search.extend(log_probs[None, begin:end], torch.tensor([end - begin]), [state])
    (found,) = search.hypotheses(state)
    ((whole,),) = search(log_probs[None], torch.tensor([len(path)]))
    assert [token.id for token in found.tokens] == [symbol for symbol, _, _ in runs(path)]
    assert found.score == pytest.approx(whole.score, abs=1e-4)
    for token, other in zip(found.tokens, whole.tokens, strict=True):
        assert (token.start, token.end) == (other.start + first_frame, other.end + first_frame)
        assert token.score == pytest.approx(other.score, abs=1e-4)


def test_a_model_without_ctc():
    model = LogProbs()
    model.ctc = None
    with pytest.raises(UserError, match="ctc_greedy: found a model without a CTC head"):
        CtcGreedy(CtcGreedyConfig(), model, None, "cpu")
