"""CTC against the sum over all paths, in double precision."""

import itertools
import math
import random

import pytest
import torch

from toolkit.losses.ctc import ctc_loss


def collapse(path):
    """Repetitions merged, then blanks removed."""
    return [symbol for symbol, _ in itertools.groupby(path) if symbol != 0]


def brute_force(log_probs, tokens):
    """-log of the summed probability of every path (T, V) that collapses to the tokens; None if there is none."""
    frames, symbols = log_probs.shape
    rows = log_probs.double().tolist()
    total = sum(
        math.exp(sum(row[symbol] for row, symbol in zip(rows, path, strict=True)))
        for path in itertools.product(range(symbols), repeat=frames)
        if collapse(path) == tokens
    )
    return -math.log(total) if total else None


def padded(rows):
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)


def test_equals_the_sum_over_all_paths():
    torch.manual_seed(0)
    rng = random.Random(0)
    lengths = [1, 2, 3, 4, 5, 6, 6, 6, 5, 4]
    rows = [[rng.randint(1, 2) for _ in range(rng.randint(1, 3))] for _ in lengths[:-3]]
    rows += [[2, 2, 2], [1], [1, 2, 2, 1]]
    log_probs = torch.randn(len(lengths), 6, 3).log_softmax(-1)
    loss, fits = ctc_loss(
        log_probs, torch.tensor(lengths), padded(rows), torch.tensor([len(row) for row in rows])
    )
    expected = [brute_force(log_probs[i, :length], rows[i]) for i, length in enumerate(lengths)]
    assert fits.tolist() == [value is not None for value in expected]
    assert not fits.all() and fits.sum() > 5
    torch.testing.assert_close(loss, torch.tensor([value or 0.0 for value in expected]), rtol=1e-5, atol=1e-5)


def test_gradients_equal_differences():
    torch.manual_seed(0)
    scores = torch.randn(1, 4, 3, dtype=torch.float64, requires_grad=True)
    tokens, lengths, token_lengths = torch.tensor([[1, 1]]), torch.tensor([4]), torch.tensor([2])
    ctc_loss(scores.log_softmax(-1), lengths, tokens, token_lengths)[0].sum().backward()
    for frame, symbol in itertools.product(range(4), range(3)):
        ends = []
        for step in (1e-4, -1e-4):
            moved = scores.detach().clone()
            moved[0, frame, symbol] += step
            ends.append(brute_force(moved[0].log_softmax(-1), [1, 1]))
        assert scores.grad[0, frame, symbol].item() == pytest.approx((ends[0] - ends[1]) / 2e-4, abs=1e-4)


def test_what_does_not_fit_has_no_loss_and_no_gradient():
    torch.manual_seed(0)
    scores = torch.randn(2, 3, 4, requires_grad=True)
    # Two equal tokens need a blank between them, so three of them need five frames.
    tokens = torch.tensor([[1, 1, 1], [1, 2, 3]])
    loss, fits = ctc_loss(scores.log_softmax(-1), torch.tensor([3, 3]), tokens, torch.tensor([3, 3]))
    assert fits.tolist() == [False, True]
    loss.sum().backward()
    assert loss[0] == 0 and loss[1] > 0
    assert scores.grad[0].abs().sum() == 0 and scores.grad[1].abs().sum() > 0


def test_padding_is_not_read():
    torch.manual_seed(0)
    log_probs = torch.randn(1, 5, 4).log_softmax(-1)
    alone, _ = ctc_loss(log_probs, torch.tensor([5]), torch.tensor([[1, 2]]), torch.tensor([2]))
    wide = torch.cat([log_probs, torch.full((1, 3, 4), 99.0)], dim=1)
    found, fits = ctc_loss(wide, torch.tensor([5]), torch.tensor([[1, 2, 3, 3]]), torch.tensor([2]))
    torch.testing.assert_close(found, alone)
    assert fits.all()
