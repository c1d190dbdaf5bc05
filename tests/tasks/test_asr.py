"""The recognition task: tokens, batches, loss, and what is skipped or refused."""

import dataclasses
import random

import pytest
import torch
from lhotse import CutSet
from lhotse.utils import fastcopy

from tests.tasks.small import ENCODER, learn
from toolkit.config import build
from toolkit.data.synthetic import synthetic_cuts
from toolkit.errors import UserError
from toolkit.losses.ctc import ctc_loss
from toolkit.ssl import masking
from toolkit.ssl.masking import uniform
from toolkit.tasks import asr
from toolkit.tasks.asr import AsrConfig, AsrTask, needed_frames, transcript

TINY = {
    "data": {"train": "synthetic:6"},
    "speech": {"encoder": ENCODER},
    "ctc": {"dropout": 0.0},
}


@pytest.fixture(scope="module")
def cuts():
    return synthetic_cuts(6)


def make(folder, **changes):
    task = AsrTask(build(AsrConfig, TINY | changes, "test"), folder, seed=0)
    task.prepare()
    return task, task.build_model()


def with_text(cut, text):
    return cut.map_supervisions(lambda segment: fastcopy(segment, text=text))


def test_tokens_are_learned_once(tmp_path):
    task, model = make(tmp_path)
    lines = (tmp_path / "tokens.txt").read_text().splitlines()
    assert lines[:4] == ["<blk> 0", "<unk> 1", "▁ 2", "a 3"]
    assert model.ctc[1].out_features == len(lines)
    (tmp_path / "tokens.txt").write_text("\n".join(lines[:8]) + "\n")
    task.prepare()
    assert task.build_model().ctc[1].out_features == 8


def test_subword_units(tmp_path):
    task, model = make(tmp_path, tokenizer={"type": "bpe", "vocab_size": 25})
    assert (tmp_path / "tokenizer.model").exists() and model.ctc[1].out_features == 25


def test_batches_hold_the_tokens_of_the_transcripts(cuts, tmp_path):
    task, _ = make(tmp_path)
    batch = task.collate(cuts, random.Random(0))
    for row, length, cut in zip(batch.tokens, batch.token_lengths, cuts, strict=True):
        assert task.tokenizer.decode(row[:length].tolist()) == cut.supervisions[0].text
        assert not row[length:].any()


def test_loss_is_ctc_over_tokens(cuts, tmp_path):
    task, model = make(tmp_path)
    model.eval()
    batch = task.collate(cuts, random.Random(0))
    loss, stats, weight = task.loss(model, batch)
    output = model(batch.waveforms, batch.lengths, batch.tokens)
    assert output.log_probs.exp().sum(-1).allclose(torch.ones(()))
    expected, _ = ctc_loss(output.log_probs, output.lengths, batch.tokens, batch.token_lengths)
    torch.testing.assert_close(loss, expected.sum())
    assert weight == batch.token_lengths.sum() and stats == {}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("time and again " * 30, "transcript too long: 449 tokens need 449 frames, found"),
        ("aaa" * 20 + " b", "transcript too long: 62 tokens need 121 frames, found"),
        ("sun ß", "unknown symbols: the transcript has some that tokens.txt lacks"),
    ],
)
def test_what_cannot_be_learned_is_skipped_and_named(cuts, tmp_path, text, reason):
    task, _ = make(tmp_path)
    first, second = list(cuts)[:2]
    batch = task.collate(CutSet([first, with_text(second, text)]), random.Random(0))
    assert batch.ids == [first.id] and len(batch.tokens) == 1
    (row,) = batch.skipped
    assert row["id"] == second.id and row["reason"].startswith(reason)


@pytest.mark.parametrize(
    ("heads", "needed"),
    [
        ({}, 5),
        ({"ctc": {"scale": 0.0}, "transducer": {"scale": 1.0}}, 1),
        ({"ctc": {"scale": 0.0}, "transducer": {"scale": 1.0, "loss": {"prune_range": 2}}}, 4),
        ({"ctc": {"scale": 0.0}, "transducer": {"scale": 1.0, "pruned": False}}, 1),
        ({"ctc": {"scale": 0.0}, "transducer": {"scale": 1.0, "loss": {"topology": "modified"}}}, 4),
        ({"ctc": {"scale": 0.2}, "transducer": {"scale": 1.0}}, 5),
        ({"ctc": {"scale": 0.0}, "attention": {"scale": 1.0}}, 1),
    ],
)
def test_frames_that_a_transcript_needs(heads, needed):
    assert needed_frames([3, 4, 4, 5], build(AsrConfig, heads, "test")) == needed


def test_cuts_without_words_are_skipped(cuts, tmp_path):
    task, model = make(tmp_path)
    first, second = list(cuts)[:2]
    mixed = CutSet([with_text(first, "  "), second, with_text(first, None).with_id("none")])
    batch = task.collate(mixed, random.Random(0))
    assert batch.ids == [second.id] and not batch.placeholder
    assert [row["id"] for row in batch.skipped] == [first.id, "none"]
    assert batch.skipped[0]["reason"] == "empty transcript: there is nothing to learn"
    nothing = task.collate(CutSet([with_text(first, "")]), random.Random(0))
    assert nothing.placeholder
    assert task.loss(model, nothing)[0].isfinite()


def test_masks_only_in_training(cuts, tmp_path):
    task, model = make(tmp_path, mask={"prob": 0.5, "span": 3})
    batch = task.collate(cuts, random.Random(0))
    with torch.no_grad():
        plain = task.loss(model.eval(), batch)[0]
        masked = task.loss(model.train(), batch)[0]
        assert plain != masked and masked == task.loss(model, batch)[0]
    assert model.speech.encoder.mask_embedding.requires_grad
    assert not make(tmp_path)[1].speech.encoder.mask_embedding.requires_grad


def test_channels_are_zeroed_only_in_training_and_the_same_alone(cuts, tmp_path):
    task, model = make(tmp_path, channel_mask={"prob": 0.5, "span": 8})
    batch = task.collate(cuts, random.Random(0))
    seen = []
    model.speech.register_forward_hook(lambda speech, inputs, output: seen.append(output.latents))
    with torch.no_grad():
        plain = task.loss(model.eval(), batch)[0]
        changed = task.loss(model.train(), batch)[0]
        assert plain != changed
        alone = sum(task.loss(model, rows(batch, index))[0] for index in range(len(batch.seeds)))
    torch.testing.assert_close(alone, changed)
    zeroed = (seen[1] == 0).all(dim=1)
    assert (
        set(zeroed.sum(1).tolist()) <= set(range(8, 17)) and len({tuple(row.tolist()) for row in zeroed}) > 1
    )
    torch.testing.assert_close(seen[1], seen[0].masked_fill(zeroed[:, None], 0.0))


def test_what_is_hidden_of_frames_and_channels_is_drawn_by_different_seeds(cuts, tmp_path, monkeypatch):
    drawn = []

    def recorded(seeds, count):
        drawn.extend(seeds.tolist())
        return uniform(seeds, count)

    monkeypatch.setattr(masking, "uniform", recorded)
    monkeypatch.setattr(asr, "uniform", recorded)
    spans = {"kind": "normal", "prob": 0.5, "span": 8, "other": 2}
    task, model = make(tmp_path, mask=spans, channel_mask=spans, spec_augment={"prob": 1.0})
    task.loss(model.train(), task.collate(cuts, random.Random(0)))
    # Places and lengths of frames and of channels, and the features' own.
    assert len(drawn) == len(set(drawn)) == 5 * len(cuts)


def test_spec_augment_only_in_training_and_the_same_alone(cuts, tmp_path):
    task, model = make(tmp_path, spec_augment={"prob": 1.0, "time_warp": 5})
    batch = task.collate(cuts, random.Random(0))
    with torch.no_grad():
        plain = task.loss(model.eval(), batch)[0]
        changed = task.loss(model.train(), batch)[0]
        assert plain != changed and changed == task.loss(model, batch)[0]
        alone = sum(task.loss(model, rows(batch, index))[0] for index in range(len(batch.seeds)))
    torch.testing.assert_close(alone, changed)


def rows(batch, index):
    """One utterance of a batch, without its padding."""
    samples, tokens = batch.lengths[index], batch.token_lengths[index]
    return dataclasses.replace(
        batch,
        waveforms=batch.waveforms[index : index + 1, :samples],
        lengths=batch.lengths[index : index + 1],
        seeds=batch.seeds[index : index + 1],
        tokens=batch.tokens[index : index + 1, :tokens],
        token_lengths=batch.token_lengths[index : index + 1],
    )


def test_a_transcript_joins_the_supervisions(cuts):
    first, second = list(cuts)[:2]
    both = first.append(second)
    assert transcript(both) == f"{first.supervisions[0].text} {second.supervisions[0].text}"
    assert transcript(first.drop_supervisions()) == ""


SMALL_TRANSDUCER = {"scale": 1.0, "joiner_dim": 32, "predictor": {"dim": 16}, "warmup_updates": 20}
SMALL_ATTENTION = {
    "scale": 1.0,
    "dim": 16,
    "num_heads": 2,
    "num_layers": 1,
    "feed_forward_dim": 32,
    "dropout": 0.0,
}
HEADS = {
    "ctc": {},
    "transducer": {"ctc": {"scale": 0.0}, "transducer": SMALL_TRANSDUCER},
    "full_sum": {"ctc": {"scale": 0.0}, "transducer": SMALL_TRANSDUCER | {"pruned": False}},
    "attention": {"ctc": {"scale": 0.0}, "attention": SMALL_ATTENTION},
    "all": {"ctc": {"scale": 0.2}, "transducer": SMALL_TRANSDUCER, "attention": SMALL_ATTENTION},
    "consistency": {
        "ctc": {"consistency": 0.2},
        "spec_augment": {"prob": 1.0, "time_warp": 0, "max_time_share": 0.05},
    },
}
STATS = {
    "ctc": set(),
    "transducer": {"simple", "pruned"},
    "full_sum": set(),
    "attention": set(),
    "all": {"ctc", "simple", "pruned", "attention"},
    "consistency": {"ctc", "consistency"},
}


@pytest.mark.parametrize("heads", HEADS)
def test_words_can_be_learned(cuts, tmp_path, heads):
    torch.manual_seed(0)
    task, model = make(tmp_path, **HEADS[heads])
    batch = task.collate(CutSet(list(cuts)[:3]), random.Random(0))
    task.before_update(model, 20)
    rows = learn(task, model, batch, updates=60, lr=1e-2)
    assert set(rows[0]) == STATS[heads] | {"loss"}
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)
    losses = [row["loss"] for row in rows]
    assert losses[-1] < 0.6 * min(losses[:5])


def test_the_sum_of_the_losses_has_their_scales(cuts, tmp_path):
    heads = {
        "ctc": {"scale": 0.3, "dropout": 0.0},
        "transducer": SMALL_TRANSDUCER | {"scale": 2.0, "simple_scale": 0.5, "warmup_updates": 100},
        "attention": SMALL_ATTENTION | {"scale": 0.7},
    }
    task, model = make(tmp_path, **heads)
    batch = task.collate(cuts, random.Random(0))
    for update, simple, pruned in ((0, 1.0, 0.1), (50, 0.75, 0.55), (1000, 0.5, 1.0)):
        task.before_update(model, update)
        loss, stats, _ = task.loss(model.eval(), batch)
        scales = {"ctc": 0.3, "simple": 2 * simple, "pruned": 2 * pruned, "attention": 0.7}
        torch.testing.assert_close(loss, sum(scale * stats[name] for name, scale in scales.items()))


def test_two_views_of_each_utterance(cuts, tmp_path):
    task, model = make(tmp_path, **HEADS["consistency"])
    batch = task.collate(cuts, random.Random(0))
    loss, stats, weight = task.loss(model.train(), batch)
    assert stats["consistency"] > 0 and weight == batch.token_lengths.sum()
    torch.testing.assert_close(loss, stats["ctc"] + 0.2 * stats["consistency"])
    assert set(task.loss(model.eval(), batch)[1]) == set()


def test_no_transcripts_at_all(tmp_path, monkeypatch, cuts):
    config = build(AsrConfig, TINY, "test")
    task = AsrTask(config, tmp_path, seed=0)
    monkeypatch.setattr(task, "training_cuts", lambda: CutSet([with_text(cut, None) for cut in cuts]))
    with pytest.raises(UserError, match="data.train: found no text in the transcripts"):
        task.prepare()
    assert not (tmp_path / "tokens.txt").exists()
