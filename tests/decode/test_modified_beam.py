"""Modified beam search against the sum over all alignments of all sequences, and against greedy search."""

import itertools

import pytest
import torch

from tests.decode.bigram import Bigram
from tests.decode.small_transducer import assert_alike, earlier, extend, make_frames, make_model
from toolkit.decode.greedy import Greedy, GreedyConfig
from toolkit.decode.modified_beam import ModifiedBeam, ModifiedBeamConfig

LENGTHS = 23, 40, 1, 0, 17, 9
PREDICTORS = ["stateless", "lstm", "transformer"]


def search_of(model, scorer=None, **settings):
    search = ModifiedBeam(ModifiedBeamConfig(**settings), model, None, "cpu")
    search.scorer = scorer
    return search


@torch.no_grad()
def exhaustive(model, frames, scorer, temperature=1.0, blank_penalty=0.0, length_bonus=0.0, internal=0.0):
    """Sequence -> log of the sum over all alignments, plus what is fused in; at most one symbol on a frame."""
    predictor, joiner = model.transducer.predictor, model.transducer.joiner
    symbols, encoded = joiner.output.out_features, joiner.encoder_proj(frames)
    totals = {}
    for count in range(len(frames) + 1):
        for tokens in itertools.product(range(1, symbols), repeat=count):
            predicted = joiner.predictor_proj(predictor(torch.tensor([tokens], dtype=torch.int64)))
            logits = joiner(encoded[:, None], predicted)
            logits[..., 0] -= blank_penalty
            scores = (logits / temperature).log_softmax(-1)
            paths = []
            for at in itertools.combinations(range(len(frames)), count):
                done, path = 0, 0.0
                for time in range(len(frames)):
                    here = time in at
                    path += scores[time, done, tokens[done] if here else 0]
                    done += here
                paths.append(path)
            own = joiner.output(torch.tanh(predicted[0]))[:, 1:].log_softmax(-1)
            ilm = sum(own[place, token - 1] for place, token in enumerate(tokens))
            fused = (scorer.of(tokens) if scorer else 0.0) + length_bonus * count - internal * ilm
            totals[tokens] = float(torch.stack(paths).logsumexp(0) + fused)
    return totals


@pytest.mark.parametrize("predictor", PREDICTORS)
@pytest.mark.parametrize("fused", [False, True])
def test_equals_all_alignments_of_all_sequences(predictor, fused):
    model = make_model(predictor, symbols=4, topology="modified", blank=0.5)
    model.transducer.double()
    frames = make_frames(4)[0].double()
    scorer = Bigram(4, dtype=torch.float64) if fused else None
    settings = {"temperature": 1.3, "blank_penalty": 0.2, "length_bonus": 0.3} if fused else {}
    ilm = {"internal_lm_scale": 0.4} if fused else {}
    search = search_of(model, scorer, beam=200, nbest=200, **settings, **ilm)
    (found,) = search(frames, torch.tensor([4]))
    expected = exhaustive(model, frames[0], scorer, **settings, internal=0.4 if fused else 0.0)
    assert len(found) == len(expected) == sum(3**n for n in range(5))
    for hypothesis in found:
        tokens = tuple(token.id for token in hypothesis.tokens)
        assert hypothesis.score == pytest.approx(expected.pop(tokens), abs=1e-9)
        starts = [token.start for token in hypothesis.tokens]
        assert starts == sorted(set(starts)) and all(0 <= start < 4 for start in starts)
    scores = [hypothesis.score for hypothesis in found]
    assert not expected and scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("predictor", PREDICTORS)
def test_a_beam_of_one_is_greedy(predictor):
    model = make_model(predictor)
    frames, lengths = make_frames(*LENGTHS)
    found = search_of(model, beam=1)(frames, lengths)
    greedy = Greedy(GreedyConfig(max_symbols=1), model, None, "cpu")(frames, lengths)
    for one, other in zip(found, greedy, strict=True):
        assert_alike(one, other)
    assert sum(len(nbest[0].tokens) for nbest in found) > 20


def test_a_wider_beam_finds_likelier_hypotheses():
    model = make_model()
    frames, lengths = make_frames(*[30] * 8)
    best = [[n[0].score for n in search_of(model, beam=beam)(frames, lengths)] for beam in (1, 4, 16)]
    sums = [sum(scores) for scores in best]
    assert sums[0] < sums[1] < sums[2]


@pytest.mark.parametrize("predictor", PREDICTORS)
@pytest.mark.parametrize("scorer", [None, Bigram(5)], ids=["alone", "fused"])
def test_batched_equals_one_by_one(predictor, scorer):
    frames, lengths = make_frames(*LENGTHS)
    search = search_of(make_model(predictor), scorer, nbest=4)
    together = search(frames, lengths)
    assert [len(nbest) for nbest in together] == [4, 4, 4, 1, 4, 4]
    for row, length, expected in zip(frames, lengths, together, strict=True):
        assert_alike(search(row[None, :length], length[None])[0], expected)


@pytest.mark.parametrize("predictor", PREDICTORS)
@pytest.mark.parametrize("scorer", [None, Bigram(5)], ids=["alone", "fused"])
def test_in_pieces_equals_at_once(predictor, scorer):
    frames, lengths = make_frames(30, 24)
    search = search_of(make_model(predictor), scorer, nbest=3)
    pieces = [(0, 5, [0, 1]), (5, 6, [1]), (5, 30, [0]), (6, 24, [1])]
    states = extend(search, frames, [search.start(), search.start(7)], pieces)
    for state, offset, expected in zip(states, (0, 7), search(frames, lengths), strict=True):
        assert_alike([earlier(best, offset) for best in search.hypotheses(state)], expected)


def test_a_symbol_has_the_time_of_its_likeliest_frame():
    """The symbol is possible on frame 1, and likely on frame 3: found early, it must move to where it belongs."""
    model = make_model(symbols=3)
    joiner = model.transducer.joiner
    with torch.no_grad():
        for parameter in joiner.parameters():
            parameter.zero_()
        joiner.encoder_proj.weight[0, 0] = 1.0
        joiner.output.weight[:, 0] = torch.tensor([-4.0, 4.0, 0.0])
        joiner.output.bias[2] = -30.0
        joiner.predictor_proj.bias[0] = -1.0
    frames = torch.zeros(1, 5, 6)
    frames[0, :, 0] = torch.tensor([-1.0, 0.8, -1.0, 2.0, -1.0])
    (found,) = search_of(model, beam=4, nbest=4)(frames, torch.tensor([5]))
    (token,) = next(h for h in found if len(h.tokens) == 1).tokens
    assert (token.id, token.start, token.end) == (1, 3, 4)


def test_a_scorer_final_counts_at_the_end_only():
    scorer = Bigram(5)
    search = search_of(make_model(), scorer, nbest=4)
    frames, lengths = make_frames(12)
    (state,) = search.extend(frames, lengths, [search.start()])
    before, after = (
        {tuple(h.tokens): h.score for h in search.hypotheses(state, final)} for final in (False, True)
    )
    for tokens, score in before.items():
        assert after[tokens] - score == pytest.approx(float(scorer.ends[tokens[-1].id]), abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beam": 0}, "nbest must be at least 1 and at most beam, got nbest=1, beam=0"),
        ({"beam": 3, "nbest": 4}, "got nbest=4, beam=3"),
        ({"temperature": 0.0}, "temperature must be over 0, got 0.0"),
    ],
)
def test_what_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ModifiedBeamConfig(**settings)
