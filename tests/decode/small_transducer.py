"""A transducer small enough to try all alignments, which emits often enough."""

from types import SimpleNamespace

import torch

from toolkit.losses.transducer.config import TransducerLossConfig
from toolkit.models.predictors import PREDICTORS
from toolkit.models.transducer import Transducer, TransducerConfig

DIM = 6
SIZES = {
    "stateless": {"dim": 8},
    "lstm": {"dim": 8},
    "transformer": {"dim": 8, "num_heads": 2, "feed_forward_dim": 16},
}


def make_model(predictor="stateless", symbols=5, topology="regular", blank=1.0, seed=0):
    """What a search wants of an AsrModel; `blank` is added to the bias of the blank."""
    torch.manual_seed(seed)
    config = TransducerConfig(
        predictor=PREDICTORS[predictor].Config(**SIZES[predictor]),
        joiner_dim=8,
        loss=TransducerLossConfig(topology=topology),
    )
    transducer = Transducer(config, DIM, symbols).eval()
    with torch.no_grad():
        for parameter in transducer.parameters():
            parameter.copy_(torch.randn_like(parameter))
        transducer.joiner.output.bias[0] += blank
    return SimpleNamespace(transducer=transducer)


def make_frames(*lengths, seed=1):
    """(B, T, D) frames with garbage behind each utterance's end, and (B,) lengths."""
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randn(len(lengths), max(lengths), DIM, generator=generator)
    for row, length in zip(frames, lengths, strict=True):
        row[length:] = 1e4
    return frames, torch.tensor(lengths)


def extend(search, frames, states, pieces):
    """Gives utterances to a search in pieces: (first frame, frame after the last, rows that have the piece)."""
    for begin, end, rows in pieces:
        lengths = torch.full((len(rows),), end - begin)
        new = search.extend(frames[rows, begin:end], lengths, [states[row] for row in rows])
        states = [new[rows.index(row)] if row in rows else state for row, state in enumerate(states)]
    return states


def earlier(hypothesis, frames):
    """With its times put back."""
    tokens = [
        token._replace(start=token.start - frames, end=token.end - frames) for token in hypothesis.tokens
    ]
    return hypothesis._replace(tokens=tokens)


def assert_alike(found, expected):
    """N-best lists with the same tokens and times, and scores up to rounding."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert [token[:3] for token in one.tokens] == [token[:3] for token in other.tokens]
        numbers, others = ([h.score, *(token.score for token in h.tokens)] for h in (one, other))
        torch.testing.assert_close(torch.tensor(numbers), torch.tensor(others), atol=2e-4, rtol=1e-4)
