"""A second look at n-best lists: what it adds, and what that does to their order."""

import pytest
import torch

from tests.decode.bigram import Bigram
from tests.decode.small_transducer import DIM, assert_alike, make_frames, make_model
from toolkit import config
from toolkit.decode import rescoring
from toolkit.decode.ctc_beam import CtcBeamConfig
from toolkit.decode.modified_beam import ModifiedBeam, ModifiedBeamConfig
from toolkit.decode.rescoring import Rescoring, RescoringConfig
from toolkit.errors import UserError
from toolkit.models.attention_decoder import AttentionConfig, AttentionDecoder

LENGTHS = 23, 40, 9, 17
FIRST = ModifiedBeamConfig(beam=6, nbest=6)


@pytest.fixture
def model():
    model = make_model()
    sizes = AttentionConfig(scale=1.0, dim=8, num_layers=1, num_heads=2, feed_forward_dim=16)
    model.attention = AttentionDecoder(sizes, DIM, 5).eval()
    with torch.no_grad():
        model.attention.output.weight.mul_(3)
    return model


@torch.no_grad()
def attention_score(model, frames, tokens):
    """Of one hypothesis for one utterance (T, D)."""
    logits = model.attention(
        frames[None], torch.tensor([len(frames)]), torch.tensor([tokens], dtype=torch.int64)
    )[0]
    return sum(float(row[token]) for row, token in zip(logits.log_softmax(-1), [*tokens, 0], strict=True))


@pytest.mark.parametrize("rows_at_once", [64, 5])
def test_scores_are_scaled_sums(model, rows_at_once, monkeypatch):
    monkeypatch.setattr(rescoring, "ROWS_AT_ONCE", rows_at_once)
    frames, lengths = make_frames(*LENGTHS)
    first = ModifiedBeam(FIRST, model, None, "cpu")(frames, lengths)
    search = Rescoring(
        RescoringConfig(first=FIRST, first_scale=0.9, attention_scale=0.6, length_bonus=0.2),
        model,
        None,
        "cpu",
    )
    search.scorer = scorer = Bigram(5)
    found = search(frames, lengths)
    changed = 0
    for row, length, before, after in zip(frames, lengths, first, found, strict=True):
        expected = []
        for hypothesis in before:
            ids = [token.id for token in hypothesis.tokens]
            fused = scorer.of(ids) + 0.2 * len(ids) + 0.6 * attention_score(model, row[:length], ids)
            expected.append(hypothesis._replace(score=0.9 * hypothesis.score + fused))
        expected.sort(key=lambda hypothesis: -hypothesis.score)
        assert_alike(after, expected)
        changed += [h.tokens for h in before] != [h.tokens for h in after]
    assert changed > 1, "the order is that of the first search: nothing is tested"


def test_without_anything_all_stays_as_it_was(model):
    frames, lengths = make_frames(*LENGTHS)
    found = Rescoring(RescoringConfig(first=FIRST), model, None, "cpu")(frames, lengths)
    for one, other in zip(found, ModifiedBeam(FIRST, model, None, "cpu")(frames, lengths), strict=True):
        assert_alike(one, other)


def test_batched_equals_one_by_one(model):
    frames, lengths = make_frames(*LENGTHS)
    search = Rescoring(RescoringConfig(first=FIRST, attention_scale=0.5), model, None, "cpu")
    for row, length, expected in zip(frames, lengths, search(frames, lengths), strict=True):
        assert_alike(search(row[None, :length], length[None])[0], expected)
    assert search(frames[:0], lengths[:0]) == []


def test_configuration():
    settings = config.build(RescoringConfig, {"first": {"name": "ctc_beam", "nbest": 5}}, "test")
    assert settings.first == CtcBeamConfig(nbest=5)
    assert RescoringConfig().first == ModifiedBeamConfig(beam=8, nbest=8)
    with pytest.raises(UserError, match=r"test: top level: first.nbest must be at least 2, got 1"):
        config.build(RescoringConfig, {"first": {"name": "ctc_beam"}}, "test")
    with pytest.raises(ValueError, match="attention_scale must not be negative, got -1"):
        RescoringConfig(attention_scale=-1)


def test_a_model_without_attention_decoder():
    model = make_model()
    model.attention = None
    with pytest.raises(UserError, match="attention_scale: found 0.5, but the model has no attention decoder"):
        Rescoring(RescoringConfig(attention_scale=0.5), model, None, "cpu")
