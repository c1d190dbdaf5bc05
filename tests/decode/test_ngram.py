"""N-gram models as scorers, against back-off as it is defined over dictionaries."""

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.decode.scorers import walk, walk_together
from tests.text.ngrams import arpa_text, log_prob, natural, random_model, sentence
from toolkit.decode.ngram import NgramScorer
from toolkit.errors import UserError
from toolkit.text.arpa import read_arpa

SYMBOLS = ["<blk>", "<unk>", "a", "b", "c"]
HYPOTHESES = st.lists(st.lists(st.integers(2, 4), max_size=8), min_size=1, max_size=4)


def build(folder, model, symbols=SYMBOLS):
    path = folder / "random.arpa"
    path.write_text(arpa_text(model))
    return NgramScorer(read_arpa(path), symbols)


@given(st.integers(0, 999), st.integers(1, 4), HYPOTHESES)
def test_scores_are_those_of_the_definition(tmp_path_factory, seed, order, hypotheses):
    model = random_model(random.Random(seed), ["<unk>", "a", "b", "c"], order)
    scorer = build(tmp_path_factory.mktemp("arpa"), model)
    found, finals = walk_together(scorer, hypotheses)
    for tokens, scores, final in zip(hypotheses, found, finals, strict=True):
        expected = natural(sentence(model, [SYMBOLS[token] for token in tokens]))
        assert [*scores, final] == pytest.approx(expected, abs=1e-4)
        assert (scores, final) == walk(scorer, tokens)


@given(st.integers(0, 999), st.integers(1, 4), HYPOTHESES)
def test_all_scores_at_once_are_those_of_some(tmp_path_factory, seed, order, hypotheses):
    model = random_model(random.Random(seed), ["<unk>", "a", "b", "c"], order)
    scorer = build(tmp_path_factory.mktemp("arpa"), model, ["<eps>", "c", "x", "a", "b", "a"])
    state = scorer.start(len(hypotheses))
    for place in range(8):
        tokens = [row[place] - 1 if place < len(row) else 0 for row in hypotheses]
        state = scorer.advance(state, torch.tensor(tokens))
    scores = scorer.scores(state)
    some = torch.tensor([[3, 0, 2, 2], [5, 1, 4, 3]])[torch.arange(len(hypotheses)) % 2]
    assert torch.allclose(scorer.score_some(state, some), scores.gather(1, some), atol=1e-5)
    assert torch.equal(scores[:, 3], scores[:, 5]) and not scores[:, 0].any()


def test_symbols_that_the_model_lacks(tmp_path):
    """They are its <unk>; without one they are all but impossible, and the history ends there."""
    symbols = ["<blk>", "<unk>", "a", "b", "ö"]
    with_unknown = random_model(random.Random(1), ["a", "b", "<unk>"], 3)
    scores, _ = walk(build(tmp_path, with_unknown, symbols), [2, 4, 1, 3])
    assert scores == pytest.approx(
        natural(sentence(with_unknown, ["a", "<unk>", "<unk>", "b"])[:-1]), abs=1e-4
    )

    without = random_model(random.Random(1), ["a", "b"], 3)
    scores, _ = walk(build(tmp_path, without, symbols), [2, 4, 3])
    assert scores == pytest.approx(
        natural([log_prob(without, "a", ["<s>"]), -99.0, log_prob(without, "b", [])]), abs=1e-4
    )


def test_equal_states_for_equal_futures(tmp_path):
    """Two hypotheses share a state as soon as all that differs is forgotten."""
    model = {
        ("<s>",): (-99.0, -0.1),
        ("</s>",): (-1.0, None),
        ("a",): (-0.5, -0.2),
        ("b",): (-0.6, None),
        ("<s>", "a"): (-0.3, None),
    }
    scorer = build(tmp_path, model)
    states = [scorer.advance(scorer.start(1), torch.tensor([token])) for token in (2, 3)]
    again = [scorer.advance(state, torch.tensor([2])) for state in states]
    # "<s> a" has no continuation: it is as good as "a".
    assert again[0][0].item() == again[1][0].item() == states[0][0].item() != states[1][0].item() == 0


def test_a_model_of_other_symbols(tmp_path):
    model = random_model(random.Random(0), ["THE", "CAT", "SAT"], 2)
    with pytest.raises(
        UserError, match=r"random.arpa: found 0 of the 4 symbols .* not '<unk>', 'a', 'b'; expected"
    ):
        build(tmp_path, model)
    assert build(tmp_path, model, ["<eps>", "THE", "CAT"]).scores is not None
    assert build(tmp_path, model, ["<eps>", "THE", "CAT", "SAT", *"abcdefgh"]).scores is not None


def test_probabilities_of_an_estimate_sum_to_one():
    from toolkit.text.ngram import estimate

    model = estimate([list("abcab"), list("ba"), list("cab")], 3).model
    scorer = NgramScorer(model, ["<blk>", "<unk>", "a", "b", "c"])
    state = scorer.start(3)
    for tokens in ([0, 2, 3], [0, 3, 1], [2, 4, 4]):
        state = scorer.advance(state, torch.tensor(tokens))
        total = torch.logaddexp(scorer.scores(state)[:, 1:].logsumexp(1), scorer.final(state))
        assert total == pytest.approx(torch.zeros(3), abs=1e-5)
