"""Label-looping against a search that goes from frame to frame, one utterance at a time."""

from types import SimpleNamespace

import pytest
import torch

from tests.decode.small_transducer import assert_alike, earlier, extend, make_frames, make_model
from toolkit.decode import greedy
from toolkit.decode.greedy import Greedy, GreedyConfig
from toolkit.decode.hypothesis import Hypothesis, Token
from toolkit.errors import UserError

LENGTHS = 23, 40, 1, 0, 17, 9


def search_of(model, **settings):
    return Greedy(GreedyConfig(**settings), model, None, "cpu")


@torch.no_grad()
def frame_by_frame(model, frames, max_symbols=10, blank_penalty=0.0):
    """Graves 2012, as it is written down."""
    predictor, joiner = model.transducer.predictor, model.transducer.joiner
    symbols, tokens, total = [], [], 0.0
    for time, frame in enumerate(joiner.encoder_proj(frames)):
        for _ in range(max_symbols):
            predicted = joiner.predictor_proj(predictor(torch.tensor([symbols], dtype=torch.int64))[0, -1])
            logits = joiner(frame, predicted)
            logits[0] -= blank_penalty
            score, symbol = (float(x) for x in logits.log_softmax(-1).max(-1))
            total += score
            if symbol == 0:
                break
            symbols.append(int(symbol))
            tokens.append(Token(int(symbol), time, time + 1, score))
    return Hypothesis(tokens, total)


@pytest.mark.parametrize("predictor", ["stateless", "lstm", "transformer"])
@pytest.mark.parametrize(("max_symbols", "block"), [(10, 6), (10, 1), (2, 3), (1, 6), (1, 50)])
def test_equals_frame_by_frame(predictor, max_symbols, block, monkeypatch):
    monkeypatch.setattr(greedy, "CPU_BLOCK", block)
    model = make_model(predictor)
    frames, lengths = make_frames(*LENGTHS)
    found = search_of(model, max_symbols=max_symbols)(frames, lengths)
    expected = [
        [frame_by_frame(model, row[:length], max_symbols)]
        for row, length in zip(frames, lengths, strict=True)
    ]
    for one, other in zip(found, expected, strict=True):
        assert_alike(one, other)
    symbols = [len(best.tokens) for (best,) in expected]
    assert 10 < sum(symbols) and symbols[3] == 0
    if max_symbols == 10:
        starts = [token.start for token in expected[1][0].tokens]
        assert len(set(starts)) < len(starts), "no frame has two symbols: nothing is tested"


@pytest.mark.parametrize("predictor", ["stateless", "lstm", "transformer"])
def test_batched_equals_one_by_one(predictor):
    frames, lengths = make_frames(*LENGTHS)
    search = search_of(make_model(predictor))
    together = search(frames, lengths)
    for row, length, expected in zip(frames, lengths, together, strict=True):
        assert_alike(search(row[None, :length], length[None])[0], expected)


@pytest.mark.parametrize("predictor", ["stateless", "lstm", "transformer"])
def test_in_pieces_equals_at_once(predictor):
    """Utterances of different lengths, each cut elsewhere, in batches that change."""
    frames, lengths = make_frames(30, 24, 11)
    search = search_of(make_model(predictor))
    pieces = [(0, 5, [0, 1]), (5, 6, [1]), (0, 11, [2]), (5, 30, [0]), (6, 24, [1])]
    states = extend(search, frames, [search.start(), search.start(), search.start(100)], pieces)
    assert [state.frame for state in states] == [30, 24, 111]
    for state, offset, expected in zip(states, (0, 0, 100), search(frames, lengths), strict=True):
        assert_alike([earlier(best, offset) for best in search.hypotheses(state)], expected)


@pytest.mark.parametrize("topology", ["modified", "constrained"])
def test_a_symbol_a_frame_in_other_topologies(topology):
    model = make_model(topology=topology, blank=-5)
    frames, lengths = make_frames(12)
    ((best,),) = search_of(model)(frames, lengths)
    assert [token.start for token in best.tokens] == list(range(12))
    assert_alike([best], [frame_by_frame(model, frames[0], max_symbols=1)])


def test_no_more_than_max_symbols():
    model = make_model(blank=-50)
    ((best,),) = search_of(model, max_symbols=3)(*make_frames(5))
    assert [token.start for token in best.tokens] == [frame for frame in range(5) for _ in range(3)]


def test_blank_penalty():
    model = make_model(blank=4)
    frames, lengths = make_frames(40)
    (without,), (with_penalty,) = (search_of(model, blank_penalty=p)(frames, lengths)[0] for p in (0.0, 4.0))
    assert len(without.tokens) < len(with_penalty.tokens)
    assert_alike([with_penalty], [frame_by_frame(model, frames[0], blank_penalty=4.0)])


def test_what_is_refused():
    with pytest.raises(ValueError, match="max_symbols must be at least 1, got 0"):
        GreedyConfig(max_symbols=0)
    with pytest.raises(UserError, match="greedy: found a model without a transducer"):
        search_of(SimpleNamespace(transducer=None))
