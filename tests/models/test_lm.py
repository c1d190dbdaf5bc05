"""Language models: probabilities, symbol by symbol as all at once, and that they learn."""

import math
from itertools import pairwise

import pytest
import torch

from toolkit.config import build
from toolkit.models.lm import NETWORKS, LanguageModel
from toolkit.nn.causal import TRIM_EVERY

SMALL = {
    "lstm": {"dim": 12, "num_layers": 2, "dropout": 0.0},
    "transformer": {"dim": 12, "num_layers": 2, "num_heads": 2, "feed_forward_dim": 16, "dropout": 0.0},
}


def language_model(name, num_symbols=7, **changes):
    torch.manual_seed(3)
    config = build(NETWORKS[name].Config, SMALL[name] | changes, "test")
    return LanguageModel(config, num_symbols)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("tie_weights", [True, False])
def test_symbol_by_symbol_equals_all_at_once(name, tie_weights):
    model = language_model(name, tie_weights=tie_weights).double().eval()
    tokens = torch.randint(1, 7, (3, 9))
    with torch.no_grad():
        whole = model(tokens)
        assert whole.shape == (3, 10, 7) and whole.dtype == torch.float64
        torch.testing.assert_close(whole.exp().sum(-1), torch.ones(3, 10).double())
        found, state = model.start(3, "cpu")
        for index, column in enumerate(tokens.t()):
            torch.testing.assert_close(found, whole[:, index], rtol=0, atol=1e-12)
            found, state = model.step(column, state)
        torch.testing.assert_close(found, whole[:, -1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_what_comes_later_changes_nothing(name):
    model = language_model(name).eval()
    tokens = torch.tensor([[1, 2, 3, 4]])
    with torch.no_grad():
        torch.testing.assert_close(model(tokens)[:, :3], model(tokens[:, :2]))


@pytest.mark.parametrize("name", NETWORKS)
def test_rows_without_a_symbol_stay(name):
    """In a search, most steps bring few hypotheses a symbol: the state must not grow with the steps."""
    model = language_model(name).eval()
    with torch.no_grad():
        found, state = model.start(2, "cpu")
        for step in range(3 * TRIM_EVERY):
            tokens = torch.tensor([0, step % 5 + 1 if step % 24 == 0 else 0])
            found, state = model.step(tokens, state)
        said = torch.tensor([[step % 5 + 1 for step in range(0, 3 * TRIM_EVERY, 24)]])
        torch.testing.assert_close(found[1], model(said)[0, -1])
        torch.testing.assert_close(found[:1], model.start(1, "cpu")[0])
    assert sum(part.numel() for part in state) < 2 * 12 * (2 * 2 * (TRIM_EVERY + 4) + 4)


def test_tied_weights_are_one_parameter():
    tied, free = (language_model("lstm", tie_weights=tie) for tie in (True, False))
    difference = sum(p.numel() for p in free.parameters()) - sum(p.numel() for p in tied.parameters())
    assert tied.output.weight is tied.network.embedding.weight and difference == 7 * 12


@pytest.mark.parametrize("name", NETWORKS)
def test_a_grammar_is_learned(name):
    """Sentences "1 2 1 2 ...", whose next symbol is known but for the end: less than the entropy of single symbols."""
    model = language_model(name, num_symbols=4, dim=16).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    tokens = torch.tensor([[1, 2, 0, 0, 0, 0], [1, 2, 1, 2, 0, 0], [1, 2, 1, 2, 1, 2], [1, 2, 1, 2, 3, 0]])
    lengths = (tokens > 0).sum(1)
    counted = torch.arange(7) <= lengths[:, None]
    targets = torch.nn.functional.pad(tokens, (0, 1))
    losses = []
    for _ in range(60):
        loss = -model(tokens).gather(2, targets[..., None])[..., 0][counted].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    shares = targets[counted].bincount() / counted.sum()
    entropy = -(shares * shares.log()).sum().item()
    assert losses[0] < math.log(4) + 1
    assert losses[-1] < 0.6 * entropy
    assert sum(after < before for before, after in pairwise(losses)) > 40
