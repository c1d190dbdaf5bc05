"""The pretraining task: labels in step with audio, and what is refused."""

import dataclasses
import math
import random
import re
from collections import Counter

import numpy as np
import pytest
import soundfile
import torch
from lhotse import CutSet, Recording
from lhotse.utils import fastcopy

from tests.tasks.small import ENCODER, learn
from toolkit.config import build
from toolkit.data.synthetic import synthetic_cuts
from toolkit.errors import UserError
from toolkit.models.base import SpeechConfig, SpeechEncoder
from toolkit.ssl.model import fit
from toolkit.tasks.ssl import SslConfig, SslTask, check_frames

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


def test_the_encoder_is_told_whether_anything_is_padded(cuts, tmp_path, monkeypatch):
    task, model = make(tmp_path, crop_seconds=1.0)
    told, encode = [], model.speech.encoder.encode
    monkeypatch.setattr(
        model.speech.encoder, "encode", lambda *given: told.append(given[3]) or encode(*given)
    )
    for seconds in (1.0, 99.0):
        task.config.crop_seconds = seconds
        task.loss(model, task.collate(cuts, random.Random(0)))
    assert told == [False, True]


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


def with_labels(cut, labels, frame_shift=0.02):
    """The cut with other labels."""
    return fastcopy(cut, custom={}).attach_tensor(
        "labels", np.asarray(labels, np.int16), frame_shift, temporal_dim=0
    )


def recorded(folder, name, samples):
    """A cut of a file with these samples, with labels."""
    soundfile.write(folder / f"{name}.wav", samples, 16000, subtype="FLOAT")
    cut = Recording.from_file(folder / f"{name}.wav").to_cut()
    return with_labels(cut, np.zeros(len(samples) // 320))


def reasons(batch):
    return {row["id"]: row["reason"] for row in batch.skipped}


def test_labels_that_do_not_match_the_audio_are_skipped_and_listed(tmp_path, cuts):
    changed, expected = [], {}
    for index, (cut, difference) in enumerate(zip(cuts, (0, 2, -2, 3, -3), strict=False)):
        labels = np.resize(cut.load_labels(), len(cut.load_labels()) + difference)
        changed.append(with_labels(cut, labels).with_id(str(index)))
        frames = round(cut.duration * 50)
        if difference == 3:
            expected["3"] = (
                f"labels: {frames + 3} frames, expected at most {frames + 2} up to the recording's end"
            )
        if difference == -3:
            expected["4"] = f"labels: {frames - 3} frames, expected {frames - 2} to {frames + 2}"
    task, model = make(tmp_path, crop_seconds=99.0)
    batch = task.collate(CutSet.from_cuts(changed), random.Random(0))
    assert reasons(batch) == expected and batch.ids == ["0", "1", "2"] and len(batch.labels) == 3
    assert task.loss(model, batch)[0].isfinite()


@pytest.mark.parametrize("number", [1, 60])
def test_labels_that_end_before_the_crop(tmp_path, cuts, number):
    cut = next(iter(cuts))
    task, _ = make(tmp_path)
    batch = task.collate(CutSet.from_cuts([with_labels(cut, [1] * number)]), random.Random(0))
    found = re.fullmatch(r"labels: (\d+) frames, expected 48 to 52", reasons(batch)[cut.id])
    assert batch.placeholder and 0 <= int(found.group(1)) < 48


def test_labels_stay_with_cuts_that_get_noise(tmp_path, cuts):
    synthetic_cuts(3, seed=7, folder=tmp_path)
    noise = {"noise": str(tmp_path / "cuts.jsonl.gz"), "noise_prob": 1.0}
    task, _ = make(tmp_path, data=TINY["data"] | {"augment": noise})
    _, noisy = next(iter(task.training_batches((0, 0, 0), 0, 0, 1, False)))
    assert len(noisy.ids) == 8 and not noisy.skipped
    assert noisy.labels.shape == (8, 50, 1)


def test_what_gives_nothing_to_learn_is_skipped_and_listed(tmp_path, cuts):
    task, model = make(tmp_path)
    good = next(iter(cuts))
    noise = 0.1 * np.random.default_rng(0).standard_normal(16000)
    bad = [
        recorded(tmp_path, "short", noise[: 9 * 320]),
        recorded(tmp_path, "silent", np.zeros(16000)),
        recorded(tmp_path, "constant", np.full(16000, 0.25)),
        recorded(tmp_path, "nan", np.where(np.arange(16000) == 7000, np.nan, noise)),
        recorded(tmp_path, "infinite", np.where(np.arange(16000) == 7000, np.inf, noise)),
    ]
    batch = task.collate(CutSet.from_cuts([*bad, good]), random.Random(0))
    assert batch.ids == [good.id] and not batch.placeholder
    assert reasons(batch) == {
        "short": "too short: 9 frames, and a masked span has 10 (objective.mask.span)",
        "silent": "silent: every sample is 0",
        "constant": "silent: every sample is 0.25",
        "nan": "not finite: some samples are NaN or infinite",
        "infinite": "not finite: some samples are NaN or infinite",
    }
    nothing = task.collate_training(CutSet.from_cuts(bad), random.Random(0))
    assert nothing.placeholder and len(nothing.skipped) == 5 and nothing.views is None
    assert task.loss(model, nothing)[0].isfinite()


def test_several_labels_a_frame(tmp_path, cuts):
    double = CutSet.from_cuts(
        with_labels(cut, np.stack([cut.load_labels(), cut.load_labels() // 2], axis=1)) for cut in cuts
    )
    task, model = make(tmp_path, objective={"num_classes": [14, 7]})
    batch = task.collate(double, random.Random(3))
    assert batch.labels.shape == (8, 50, 2) and torch.equal(batch.labels[..., 1], batch.labels[..., 0] // 2)
    loss, stats, weight = task.loss(model, batch)
    assert {"accuracy", "accuracy_2"} <= stats.keys() and loss / weight > math.log(14)
    with pytest.raises(
        UserError, match=r"found 2 number\(s\), but cut .* has 1 label\(s\) a frame; expected a"
    ):
        task.collate(cuts, random.Random(0))
    few, _ = make(tmp_path, objective={"num_classes": [14, 5]})
    with pytest.raises(UserError, match=r"num_classes: found 5, but cut .* has label 6; expected at least 7"):
        few.collate(double, random.Random(0))


def test_the_encoder_hears_another_view_in_training_only(tmp_path, cuts):
    plain, _ = make(tmp_path)
    task, model = make(tmp_path, view={"mix_prob": 1.0})
    clean, batch = (
        plain.collate_training(cuts, random.Random(3)),
        task.collate_training(cuts, random.Random(3)),
    )
    assert clean.views is None and task.collate(cuts, random.Random(3)).views is None
    for name in ("waveforms", "labels", "seeds"):
        assert torch.equal(getattr(batch, name), getattr(clean, name))
    assert not torch.equal(batch.views, batch.waveforms) and batch.views.shape == batch.waveforms.shape
    mixed = task.loss(model, batch)[0]
    assert mixed == task.loss(model, dataclasses.replace(clean, waveforms=batch.views))[0]
    assert mixed != task.loss(model, clean)[0]
    _, first = next(iter(task.training_batches((0, 0, 0), 0, 0, 1, False)))
    assert first.views is not None
    assert all(batch.views is not None for batch in task.largest_batches(2))


def test_an_encoder_with_fewer_output_frames_than_can_be_hidden():
    speech = SpeechEncoder(build(SpeechConfig, TINY["speech"], "test"))
    check_frames(speech)
    speech.output_lengths = lambda samples: speech.latent_lengths(samples) // 2
    with pytest.raises(
        UserError, match="speech.encoder: found 250 output frames in 10 s, expected 500, one for each"
    ):
        check_frames(speech)


def test_impossible_settings():
    with pytest.raises(UserError, match="crop_seconds must be positive"):
        build(SslConfig, {"crop_seconds": 0.0}, "test")
