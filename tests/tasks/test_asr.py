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
from toolkit.tasks.asr import AsrConfig, AsrTask, transcript

TINY = {
    "data": {"train": "synthetic:6"},
    "speech": {"encoder": ENCODER},
    "head_dropout": 0.0,
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
    assert model.head[1].out_features == len(lines)
    (tmp_path / "tokens.txt").write_text("\n".join(lines[:8]) + "\n")
    task.prepare()
    assert task.build_model().head[1].out_features == 8


def test_subword_units(tmp_path):
    task, model = make(tmp_path, tokenizer={"type": "bpe", "vocab_size": 25})
    assert (tmp_path / "tokenizer.model").exists() and model.head[1].out_features == 25


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
    output = model(batch.waveforms, batch.lengths)
    assert output.log_probs.exp().sum(-1).allclose(torch.ones(()))
    expected, _ = ctc_loss(output.log_probs, output.lengths, batch.tokens, batch.token_lengths)
    torch.testing.assert_close(loss, expected.sum())
    assert weight == batch.token_lengths.sum() and stats["too_long"] == 0


def test_what_does_not_fit_has_no_weight(cuts, tmp_path):
    task, model = make(tmp_path)
    first, second = list(cuts)[:2]
    long = with_text(second, "time and again " * 30)
    batch = task.collate(CutSet([first, long]), random.Random(0))
    loss, stats, weight = task.loss(model.eval(), batch)
    assert stats["too_long"] == 1 and weight == batch.token_lengths[0]
    alone = task.loss(model, task.collate(CutSet([first]), random.Random(0)))[0]
    torch.testing.assert_close(loss, alone)


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


def test_words_can_be_learned(cuts, tmp_path):
    torch.manual_seed(0)
    task, model = make(tmp_path)
    batch = task.collate(cuts, random.Random(0))
    losses = [row["loss"] for row in learn(task, model, batch, updates=80, lr=1e-2)]
    assert losses[-1] < 0.5 * min(losses[:10])


def test_no_transcripts_at_all(tmp_path, monkeypatch, cuts):
    config = build(AsrConfig, TINY, "test")
    task = AsrTask(config, tmp_path, seed=0)
    monkeypatch.setattr(task, "training_cuts", lambda: CutSet([with_text(cut, None) for cut in cuts]))
    with pytest.raises(UserError, match="data.train: found no text in the transcripts"):
        task.prepare()
    assert not (tmp_path / "tokens.txt").exists()
