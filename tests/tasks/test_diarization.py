"""The diarization task: stretches, chunks, targets, loss."""

import math
import random

import pytest
import torch
from lhotse import CutSet

from tests.tasks.small import SMALLER_ENCODER, learn
from toolkit.config import build
from toolkit.data.manifests import mono_cut
from toolkit.data.synthetic import synthetic_cuts
from toolkit.errors import UserError
from toolkit.tasks.diarization import DiarizationConfig, DiarizationTask, Stretches, activity, errors
from toolkit.tasks.load import load_model, save_model

TINY = {
    "chunk_seconds": 3.0,
    "speech": {"encoder": SMALLER_ENCODER},
    "head": {"hidden_dim": 16, "num_layers": 1, "num_heads": 2, "feed_forward_dim": 16, "kernel_size": 3},
}


def meetings(count=2):
    """Two turns, an overlap, two turns."""
    for index in range(count):
        a, b, c, d = synthetic_cuts(4, seed=index)
        yield a.append(b).mix(c, offset_other_by=a.duration + 0.5).append(d).with_id(f"meeting{index}")


@pytest.fixture
def task(tmp_path):
    return DiarizationTask(build(DiarizationConfig, TINY, "test"), tmp_path, seed=0)


def test_stretches_cover_a_cut():
    (meeting,) = meetings(1)
    assert 7 < meeting.duration < 9
    stretches = list(Stretches([meeting], 4.0, 2.0))
    assert [s.id for s in stretches] == [f"meeting0-{n}" for n in range(len(stretches))]
    assert [s.duration for s in stretches[:-1]] == [4.0] * (len(stretches) - 1)
    assert stretches[-1].duration == pytest.approx(meeting.duration - 2.0 * (len(stretches) - 1))
    assert 2.0 < stretches[-1].duration <= 4.0
    assert [s.duration for s in Stretches([meeting], 100.0, 50.0)] == [meeting.duration]


@pytest.mark.parametrize(("seconds", "chunk"), [(50.4, 6.3), (4.2, 0.6), (3.6, 0.6), (4.21, 0.6), (0.5, 0.6)])
def test_chunks_side_by_side_end_where_the_cut_ends(seconds, chunk):
    cut = mono_cut("meeting", "none.wav", round(seconds * 16000))
    chunks = list(Stretches([cut], chunk, chunk))
    assert len(chunks) == math.ceil(round(seconds / chunk, 6))
    assert sum(part.num_samples for part in chunks) == cut.num_samples
    assert [part.start for part in chunks] == pytest.approx([chunk * index for index in range(len(chunks))])


def test_activity_marks_the_middle_of_frames_and_the_busiest_first():
    (meeting,) = meetings(1)
    found = activity(meeting, num_speakers=4, frame_shift=0.1)
    assert found.sum(0).tolist() == sorted(found.sum(0).tolist(), reverse=True)
    times = [(t + 0.5) * 0.1 for t in range(len(found))]
    expected = [sum(s.start <= time < s.end for s in meeting.supervisions) for time in times]
    assert found.sum(1).tolist() == expected
    assert activity(meeting, 2, 0.1).shape == (len(found), 2)
    assert not activity(meeting.map_supervisions(lambda s: s).drop_supervisions(), 2, 0.1).any()


def test_a_turn_without_a_speaker():
    (cut,) = synthetic_cuts(1)
    cut.supervisions[0].speaker = None
    with pytest.raises(UserError, match="has no speaker, expected one for every turn"):
        activity(cut, 2, 0.1)


def test_batches(task):
    task.build_model()
    stretches = CutSet.from_cuts(Stretches(meetings(), 6.0, 3.0))
    one, two = (task.collate(stretches, random.Random(5)) for _ in range(2))
    assert torch.equal(one.waveforms, two.waveforms) and torch.equal(one.targets, two.targets)
    assert one.waveforms.shape[1] == 48000
    # 3 s are 75 frames of 40 ms.
    assert one.targets.shape == (len(one.lengths), 75, 3) and one.targets.dtype == torch.bool


def test_loss_and_its_statistics(task):
    model = task.build_model().eval()
    batch = task.collate(CutSet.from_cuts(Stretches(meetings(), 3.0, 3.0)), random.Random(0))
    loss, stats, weight = task.loss(model, batch)
    assert weight == sum(-(-int(n) // 640) for n in batch.lengths)
    assert stats["speech"] == batch.targets.sum()
    assert loss > 0 and all(value >= 0 for value in stats.values())
    batch.targets = batch.targets[:, :, [2, 0, 1]]
    for again, before in zip(task.loss(model, batch)[1].values(), stats.values(), strict=True):
        assert again == before


def test_errors_by_hand():
    truth = torch.tensor([[[1, 0], [1, 1], [0, 0], [1, 0], [1, 1]]]).float()
    found = torch.tensor([[[1, 0], [1, 0], [0, 1], [0, 1], [1, 1]]]).float()
    values = {name: value.item() for name, value in errors(truth, found).items()}
    assert values == {"miss": 1, "false_alarm": 1, "confusion": 1, "speech": 6}


def test_a_batch_can_be_learned(task):
    torch.manual_seed(0)
    model = task.build_model().train()
    batch = task.collate(CutSet.from_cuts(Stretches(meetings(), 6.0, 3.0)), random.Random(0))
    losses = [row["loss"] for row in learn(task, model, batch, updates=25, lr=1e-2)]
    assert losses[-1] < 0.6 * losses[0]


def test_a_model_directory_gives_the_same_probabilities(task):
    model = task.build_model().eval()
    save_model(task.model_dir, model, task.config)
    waveforms, lengths = torch.randn(2, 8000), torch.tensor([8000, 6000])
    with torch.no_grad():
        found = load_model(task.model_dir).probabilities(waveforms, lengths)[0]
        assert torch.equal(found, model.probabilities(waveforms, lengths)[0])


def test_impossible_settings():
    with pytest.raises(UserError, match="chunk_seconds must be at least 0.1"):
        build(DiarizationConfig, {"chunk_seconds": 0.0}, "test")
    with pytest.raises(UserError, match="head: expected 1 <= max_simultaneous <= num_speakers <= 4"):
        build(DiarizationConfig, {"head": {"num_speakers": 5}}, "test")
