"""The pretraining task: labels in step with audio, and what is refused."""

import math
import random
from collections import Counter

import numpy as np
import pytest
import torch
from lhotse import CutSet

from tests.tasks.small import ENCODER, learn
from toolkit.config import build
from toolkit.data.synthetic import synthetic_cuts
from toolkit.errors import UserError
from toolkit.ssl.model import fit
from toolkit.tasks.ssl import SslConfig, SslTask

TINY = {
    "data": {"train": "synthetic:8"},
    "crop_seconds": 1.0,
    "speech": {"encoder": ENCODER | {"subsampling": 2}},
    "objective": {"num_classes": 14},
}


@pytest.fixture(scope="module")
def cuts():
    return synthetic_cuts(8)


def make(folder, **changes):
    task = SslTask(build(SslConfig, TINY | changes, "test"), folder, seed=0)
    return task, task.build_model()


def test_long_cuts_are_cropped_with_their_labels(cuts, tmp_path):
    task, _ = make(tmp_path)
    batch = task.collate(cuts, random.Random(3))
    assert batch.lengths.tolist() == [16000] * 8
    assert batch.labels.shape == (8, 50, 1) and batch.labels.dtype == torch.int64
    for row, labels, cut in zip(batch.waveforms, batch.labels, cuts, strict=True):
        whole = cut.load_audio()[0]
        # The crop begins with a frame, and its labels are those of the same place.
        starts = [s for s in range(0, len(whole) - 15999, 320) if np.array_equal(whole[s : s + 16000], row)]
        assert len(starts) == 1
        frame = starts[0] // 320
        assert labels[:, 0].tolist() == cut.load_labels()[frame : frame + 50].tolist()
    assert not torch.equal(task.collate(cuts, random.Random(4)).waveforms, batch.waveforms)
    assert torch.equal(task.collate(cuts, random.Random(3)).waveforms, batch.waveforms)


def test_short_cuts_are_taken_whole(cuts, tmp_path):
    task, _ = make(tmp_path, crop_seconds=99.0)
    batch = task.collate(cuts, random.Random(0))
    assert batch.lengths.tolist() == [cut.num_samples for cut in cuts]
    for labels, cut in zip(batch.labels, cuts, strict=True):
        own = cut.load_labels().tolist()
        assert labels[:, 0].tolist() == own + [-1] * (len(labels) - len(own))


def test_labels_are_fitted_to_the_frames():
    labels = torch.tensor([[[1], [2], [3]]])
    assert fit(labels, 5)[..., 0].tolist() == [[1, 2, 3, -1, -1]]
    assert fit(labels, 2)[..., 0].tolist() == [[1, 2]]


def test_the_loss_is_that_of_the_masked_frames(cuts, tmp_path):
    task, model = make(tmp_path)
    batch = task.collate(cuts, random.Random(0))
    loss, stats, weight = task.loss(model, batch)
    frames = model.speech.latent_lengths(batch.waveforms.shape[1])
    mask = model.objective.mask(model.speech.latent_lengths(batch.lengths), frames, batch.seeds)
    output = model.speech(batch.waveforms, batch.lengths, mask)
    targets = fit(batch.labels, frames)[..., 0]
    logits = model.objective.head(output.frames[mask]) / 0.1
    expected = torch.nn.functional.cross_entropy(logits, targets[mask], ignore_index=-1, reduction="sum")
    torch.testing.assert_close(loss, expected)
    assert weight == (mask & (targets >= 0)).sum() > 100
    assert 0 <= stats["accuracy"] <= weight


def test_labels_can_be_learned_from_context(cuts, tmp_path):
    """The loss falls far below that of a guess by frequency, which needs no encoder."""
    torch.manual_seed(0)
    task, model = make(tmp_path)
    batch = task.collate(cuts, random.Random(0))
    last = learn(task, model, batch, updates=60, lr=3e-3)[-1]
    counts = Counter(batch.labels.flatten().tolist())
    entropy = -sum(n / batch.labels.numel() * math.log(n / batch.labels.numel()) for n in counts.values())
    assert last["loss"] < 0.5 * entropy
    assert last["accuracy"] > 0.7


def test_a_cut_without_labels(tmp_path, cuts):
    task, _ = make(tmp_path)
    bare = next(iter(cuts)).with_custom("labels", None)
    bare.custom.pop("labels")
    with pytest.raises(
        UserError, match="synthetic:8: cut .* has no labels; python -m toolkit.bin.label makes"
    ):
        task.collate(CutSet([bare]), random.Random(0))


def test_labels_of_another_frame_shift(tmp_path, cuts):
    coarse = {"speech": {"encoder": TINY["speech"]["encoder"] | {"subsampling": 4}}}
    task, _ = make(tmp_path, **coarse)
    with pytest.raises(UserError, match=r"come every 0.02 s, expected 0.04 s as the encoder's frames"):
        task.collate(cuts, random.Random(0))


def test_a_label_beyond_the_classes(tmp_path, cuts):
    task, _ = make(tmp_path, objective={"num_classes": 5})
    with pytest.raises(
        UserError, match=r"objective.num_classes: found 5, but cut .* has label \d+; expected at"
    ):
        task.collate(cuts, random.Random(0))


def test_impossible_settings():
    with pytest.raises(UserError, match="crop_seconds must be positive"):
        build(SslConfig, {"crop_seconds": 0.0}, "test")
