"""From cuts to padded batches; what cannot be used is listed."""

import random

import numpy as np
import pytest
import soundfile
import torch

from toolkit.data.batch import AsrBatch, AudioBatch, pad, read_audio
from toolkit.data.manifests import mono_cut
from toolkit.data.synthetic import synthetic_cuts


@pytest.fixture
def cuts(tmp_path):
    return list(synthetic_cuts(3, folder=tmp_path))


def bad_cut(folder, name="bad", content=b""):
    path = folder / f"{name}.wav"
    path.write_bytes(content)
    return mono_cut(name, path, 16000)


def test_samples_and_lengths(cuts):
    good, audio = read_audio(cuts, random.Random(0))
    batch = AudioBatch(**audio)
    assert good == cuts and batch.ids == [cut.id for cut in cuts] and not batch.placeholder
    for row, length, cut in zip(batch.waveforms, batch.lengths, cuts, strict=True):
        assert length == cut.num_samples
        np.testing.assert_array_equal(row[:length].numpy(), cut.load_audio()[0])
        assert not row[length:].any()
    assert batch.waveforms.dtype == torch.float32 and batch.waveforms.shape[1] == batch.lengths.max()
    assert batch.seconds == pytest.approx(sum(cut.duration for cut in cuts))
    assert batch.padded_seconds == pytest.approx(3 * max(cut.duration for cut in cuts)) and batch.padded
    # A rate and lengths whose quotient is rounded.
    equal = [cut.resample(11025).truncate(duration=3011 / 11025) for cut in cuts]
    assert not AudioBatch(**read_audio(equal, random.Random(0))[1]).padded
    assert (
        batch.seeds.dtype == torch.int64 and (batch.seeds >= 0).all() and len(set(batch.seeds.tolist())) == 3
    )
    assert torch.equal(batch.seeds, read_audio(cuts, random.Random(0))[1]["seeds"])


def test_bad_recordings_are_listed_and_the_others_used(cuts, tmp_path):
    soundfile.write(tmp_path / "nan.wav", np.full(16000, np.nan), 16000, subtype="FLOAT")
    nan, empty = mono_cut("nan", tmp_path / "nan.wav", 16000), bad_cut(tmp_path)
    good, audio = read_audio([cuts[0], nan, cuts[1], empty], random.Random(0))
    assert good == cuts[:2] and audio["ids"] == [cuts[0].id, cuts[1].id] and not audio["placeholder"]
    assert [(row["id"], row["reason"].partition(":")[0]) for row in audio["skipped"]] == [
        ("nan", "not finite"),
        ("bad", "empty"),
    ]
    assert audio["skipped"][1]["path"] == str(tmp_path / "bad.wav")


def test_a_task_may_have_reasons_of_its_own(cuts):
    reason = "too quiet: hardly a sound"
    good, audio = read_audio(cuts, random.Random(0), lambda cut: reason if cut is cuts[1] else None)
    assert good == [cuts[0], cuts[2]] and [row["reason"] for row in audio["skipped"]] == [reason]


def test_nothing_that_can_be_used_gives_a_second_of_silence(tmp_path):
    good, audio = read_audio([bad_cut(tmp_path, name) for name in "ab"], random.Random(0))
    batch = AudioBatch(**audio)
    assert good == [] and batch.ids == [] and batch.placeholder and len(batch.skipped) == 2
    assert batch.waveforms.shape == (1, 16000) and not batch.waveforms.any()
    assert (batch.seconds, batch.padded_seconds, batch.lengths.tolist()) == (0, 1, [16000])


def test_padding():
    assert pad([torch.tensor([1, 2]), torch.tensor([3])], -1).tolist() == [[1, 2], [3, -1]]
    rows = pad([torch.ones(1, 2), torch.ones(3, 2)], 0.0)
    assert rows.shape == (2, 3, 2) and rows.sum() == 8


def test_a_batch_moves_with_all_its_tensors(cuts):
    audio = read_audio(cuts, random.Random(0))[1]
    batch = AsrBatch(**audio, tokens=torch.ones(3, 2), token_lengths=torch.ones(3))
    moved = batch.to(torch.device("meta"))
    assert type(moved) is AsrBatch and moved.ids is batch.ids and moved.seconds == batch.seconds
    for name in ("waveforms", "lengths", "seeds", "tokens", "token_lengths"):
        assert getattr(moved, name).device.type == "meta"
        assert getattr(moved, name).shape == getattr(batch, name).shape
