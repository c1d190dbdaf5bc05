"""A language model as a scorer: the same probabilities as for whole sentences, whatever the search does with states."""

import pytest
import torch

from toolkit.config import build
from toolkit.decode.neural_lm import NeuralScorer
from toolkit.decode.scorer import select
from toolkit.errors import UserError
from toolkit.models.lm import NETWORKS, LanguageModel

TOKENS = ["<blk>", "<unk>", "a", "b", "c"]
SMALL = {
    "lstm": {"dim": 12, "num_layers": 2},
    "transformer": {"dim": 12, "num_layers": 2, "num_heads": 2, "feed_forward_dim": 16},
}


@pytest.fixture(params=NETWORKS)
def model(request):
    torch.manual_seed(1)
    config = build(NETWORKS[request.param].Config, SMALL[request.param], "test")
    return LanguageModel(config, len(TOKENS)).double().eval()


def sentence_score(model, tokens):
    """Log-probability of a sentence and its end."""
    with torch.no_grad():
        rows = model(torch.tensor([tokens], dtype=torch.int64))[0]
    return sum(row[token].item() for row, token in zip(rows, [*tokens, 0], strict=True))


def test_scores_add_up_to_those_of_sentences(model):
    """Hypotheses get their tokens at different times, are dropped, repeated and reordered."""
    scorer = NeuralScorer(model, TOKENS, TOKENS)
    generator = torch.Generator().manual_seed(4)
    state, said, totals = scorer.start(3), [[], [], []], torch.zeros(3).double()
    for _ in range(40):
        tokens = torch.randint(0, 5, (3,), generator=generator) * torch.randint(
            0, 2, (3,), generator=generator
        )
        scores = scorer.scores(state)
        assert scores.shape == (3, 5) and not scores[:, 0].any() and not scores.requires_grad
        torch.testing.assert_close(
            scores[:, 1:].exp().sum(1) + scorer.final(state).exp(), torch.ones(3).double()
        )
        totals += scores.gather(1, tokens[:, None])[:, 0]
        state = scorer.advance(state, tokens)
        said = [row + [token] * (token > 0) for row, token in zip(said, tokens.tolist(), strict=True)]
        rows = torch.randint(0, 3, (3,), generator=generator)
        state, totals, said = select(state, rows), totals[rows], [list(said[row]) for row in rows.tolist()]
    assert min(map(len, said)) > 5
    expected = [sentence_score(model, row) for row in said]
    torch.testing.assert_close(
        totals + scorer.final(state), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-9
    )


def test_a_gpu_and_a_cpu_take_different_ways_to_the_same(model, monkeypatch):
    scorer = NeuralScorer(model, TOKENS, TOKENS)
    columns = [torch.tensor(column) for column in ([2, 0, 3], [0, 0, 0], [0, 4, 2], [3, 3, 3])]

    def run():
        state = scorer.start(3)
        for column in columns:
            state = scorer.advance(state, column)
        return scorer.scores(state)

    few = run()
    monkeypatch.setattr("toolkit.decode.neural_lm.eager_on_cpu", lambda _: False)
    torch.testing.assert_close(run(), few)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (TOKENS[:-1], "exp/lm: found 4 tokens, expected the 5 tokens of the recogniser; .*tokenizer.folder"),
        ([*TOKENS[:-1], "d"], "exp/lm: found token 4 to be 'd', expected 'c' of the recogniser"),
    ],
)
def test_a_model_over_other_tokens(model, tokens, message):
    with pytest.raises(UserError, match=message):
        NeuralScorer(model, tokens, TOKENS, "exp/lm")
