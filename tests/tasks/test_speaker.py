"""The speaker task: classes, crops, loss and what is refused."""

import random

import pytest
import torch
from lhotse import CutSet

from tests.tasks.small import SMALLER_ENCODER, learn
from toolkit.config import build
from toolkit.data.audio import load_audio
from toolkit.data.synthetic import synthetic_cuts
from toolkit.errors import UserError
from toolkit.losses.margin import angular_margin_softmax
from toolkit.tasks.load import load_model, save_model
from toolkit.tasks.speaker import SpeakerConfig, SpeakerTask, WithSpeeds, crop, speaker_of

TINY = {
    "data": {"train": "synthetic:12"},
    "crop_seconds": 1.0,
    "speech": {"encoder": SMALLER_ENCODER},
    "head": {"hidden_dim": 8, "attention_dim": 4, "embedding_dim": 8},
    "margin": {"final": 0.3, "start_update": 10, "end_update": 20},
}


@pytest.fixture
def task(tmp_path):
    task = SpeakerTask(build(SpeakerConfig, TINY, "test"), tmp_path, seed=0)
    task.prepare()
    return task


def test_speakers_are_numbered_once(task):
    assert (task.model_dir / "speakers.txt").read_text().split() == [f"speaker{n:02d}" for n in range(4)]
    (task.model_dir / "speakers.txt").write_text("speaker03\nspeaker00\nspeaker01\nspeaker02\n")
    task.prepare()
    task.build_model()
    assert task.numbers["speaker03"] == 0


def test_speeds_are_further_speakers(tmp_path):
    (cut,) = synthetic_cuts(1)
    cut.custom = None
    own, slow, fast = WithSpeeds(CutSet.from_cuts([cut]), [0.8, 1.25])
    assert own is cut and [speaker_of(c, "x") for c in (slow, fast)] == ["speaker00@0.8", "speaker00@1.25"]
    assert [c.id for c in (slow, fast)] == [f"{cut.id}@0.8", f"{cut.id}@1.25"]
    assert slow.duration == pytest.approx(cut.duration / 0.8, abs=1e-3)
    assert len(load_audio(fast)) == fast.num_samples


def test_batches_are_random_crops_that_depend_on_the_generator_alone(task):
    task.build_model()
    cuts = synthetic_cuts(6)
    one, two, other = (task.collate(cuts, random.Random(seed)) for seed in (1, 1, 2))
    assert one.lengths.tolist() == [16000] * 6 and one.speakers.tolist() == [0, 1, 2, 3, 0, 1]
    assert torch.equal(one.waveforms, two.waveforms) and not torch.equal(one.waveforms, other.waveforms)


def test_short_cuts_are_taken_whole():
    cut = next(iter(synthetic_cuts(1)))
    assert crop(cut, 100.0, random.Random(0)) is cut


def test_loss_follows_the_margin_schedule(task):
    model = task.build_model()
    batch = task.collate(synthetic_cuts(6), random.Random(0))
    model.train()
    for update, margin in ((0, 0.0), (15, 0.15), (20, 0.3)):
        task.update = update
        torch.manual_seed(0)
        loss, stats, weight = task.loss(model, batch)
        torch.manual_seed(0)
        expected = angular_margin_softmax(model(batch.waveforms, batch.lengths), batch.speakers, margin, 32.0)
        torch.testing.assert_close(loss, expected)
        assert stats["margin"].item() == pytest.approx(6 * margin) and weight == 6
        assert 0 <= stats["accuracy"] <= 6
    model.eval()
    assert task.loss(model, batch)[1]["margin"] == 0


def test_a_batch_can_be_learned(task):
    torch.manual_seed(0)
    model = task.build_model().train()
    batch = task.collate(synthetic_cuts(12), random.Random(0))
    losses = [row["loss"] for row in learn(task, model, batch, updates=20, lr=5e-3)]
    assert losses[-1] < 0.3 * losses[0]


def test_a_model_directory_gives_the_same_embeddings(task):
    model = task.build_model().eval()
    save_model(task.model_dir, model, task.config)
    loaded = load_model(task.model_dir)
    waveforms, lengths = torch.randn(2, 8000), torch.tensor([8000, 6000])
    with torch.no_grad():
        assert torch.equal(loaded.embed(waveforms, lengths), model.embed(waveforms, lengths))


def test_only_one_speaker(tmp_path):
    config = build(SpeakerConfig, TINY | {"data": {"train": "synthetic:1"}}, "test")
    with pytest.raises(UserError, match="synthetic:1: found 1 speaker, expected 2 or more"):
        SpeakerTask(config, tmp_path, seed=0).prepare()


def test_speaker_that_is_missing_or_unknown(task):
    task.build_model()
    cut = next(iter(synthetic_cuts(1)))
    unknown = cut.map_supervisions(lambda s: _with_speaker(s, "nobody"))
    with pytest.raises(UserError, match="found speaker 'nobody', expected one of the training data"):
        task.collate(CutSet.from_cuts([unknown]), random.Random(0))
    with pytest.raises(UserError, match="cuts.jsonl: cut .* has speakers .*'None'.*, expected exactly one"):
        speaker_of(cut.map_supervisions(lambda s: _with_speaker(s, None)), "cuts.jsonl")


def _with_speaker(segment, speaker):
    segment.speaker = speaker
    return segment


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"crop_seconds": 0.0}, "crop_seconds must be positive"),
        ({"speed_speakers": [0.9, 1.0]}, "speed_speakers must be from 0.3 to 3 and not 1"),
        ({"margin": {"final": 2.0}}, "margin: scale must be positive, final in"),
        ({"margin": {"start_update": 5, "end_update": 1}}, "start_update <= end_update"),
        ({"margin": {"finel": 0.1}}, "unknown key margin.finel; nearest valid: margin.final"),
    ],
)
def test_impossible_settings(section, message):
    with pytest.raises(UserError, match=message):
        build(SpeakerConfig, section, "test")
