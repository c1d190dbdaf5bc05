"""The steps that are compared do the same."""

import pytest
import torch

from toolkit.bench.loading import loader_task, measure_loader
from toolkit.bench.measure import Stopwatch
from toolkit.bench.pretraining import OurStep, Setting, compare, make_task, peer_of
from toolkit.bench.sizes import sizes
from toolkit.bench.table import show
from toolkit.bin import bench
from toolkit.errors import UserError
from toolkit.models.published import PUBLISHED

TINY = [
    "--speech.encoder.dim=32",
    "--speech.encoder.num_layers=1",
    "--speech.encoder.num_heads=2",
    "--speech.encoder.feed_forward_dim=32",
    "--speech.encoder.dropout=0",
    "--speech.encoder.attention_dropout=0",
    "--speech.encoder.activation_dropout=0",
    "--speech.encoder.input_dropout=0",
    "--objective.feature_penalty=0",
]
SETTING = Setting(batch=2, seconds=1.0, precision="fp32", device="cpu", compile=False)


def test_ours_and_transformers_have_the_same_loss():
    ours = OurStep("hubert-base", TINY, SETTING)
    batch, speech = ours.batch, ours.model.speech
    frames = speech.latent_lengths(batch.waveforms.shape[1])
    mask = ours.model.objective.mask(speech.latent_lengths(batch.lengths), frames, batch.seeds)
    loss, _, weight = ours.task.loss(ours.model, batch)
    theirs = peer_of(ours).train()(batch, mask)
    torch.testing.assert_close(loss / weight, theirs, rtol=1e-4, atol=1e-4)
    assert weight == mask.sum() > 20


def test_a_step_moves_the_weights():
    ours = OurStep("hubert-base", TINY, SETTING)
    before = ours.model.objective.head.weight.clone()
    watch = Stopwatch(torch.device("cpu"))
    ours.step(watch)
    assert list(watch.parts()) == ["forward", "backward", "optimiser"]
    assert (ours.model.objective.head.weight != before).any()


def test_rows_of_a_comparison():
    ours, theirs = compare(["hubert-base"], ["hubert-base"], TINY, SETTING, steps=1, threads=1)
    assert (ours["system"], theirs["system"]) == ("hubert-base", "transformers hubert-base")
    assert ours["parameters"] == theirs["parameters"] > 4_000_000
    for row in (ours, theirs):
        assert row["step"] == pytest.approx(row["forward"] + row["backward"] + row["optimiser"])
        assert row["audio_per_second"] == pytest.approx(2 / row["step"])
        assert row["memory"] > 2**20 and 0 < row["utilisation"] < 2
        assert row["step_ratio"] == row["step"] / theirs["step"]
        assert row["memory_ratio"] == row["memory"] / theirs["memory"]
    assert "| time / peer's | memory / peer's |" in show([ours, theirs])


def test_layers_are_dropped_only_if_asked_for():
    drops = [
        make_task("hubert-base", overrides).config.speech.encoder.layer_drop
        for overrides in ([], ["--speech.encoder.layer_drop=0.1"])
    ]
    assert drops == [0, 0.1]
    assert PUBLISHED["hubert-base"]["encoder"]["layer_drop"] > 0


def test_reading():
    row = measure_loader(loader_task("synthetic:30", ["--data.sampler.max_duration=8"]), 4)
    assert row["audio_per_second"] > 1 and 0 <= row["padding"] < 0.7 and 2 < row["batch_seconds"] <= 8


def test_sizes():
    (row,) = sizes(["hubert-base"])
    assert row["parameters"] == 94_371_712 and row["frames_per_second"] == 50
    # Convolutions 4.9, layers 8.5, attention 1.4, positions 0.5, or 0.2 by way of their Fourier transform.
    assert row["gflop_per_second"] == pytest.approx(15.2, abs=0.2)


def test_what_cannot_be_measured(monkeypatch):
    with pytest.raises(UserError, match="--batches: found 0, expected at least 1"):
        bench.main(["loader", "--cuts", "synthetic:30", "--batches", "0"])
    with pytest.raises(UserError, match="--models: found 'gpt', expected one of: "):
        make_task("gpt", [])
    with pytest.raises(UserError, match="--peers: transformers is compared with the objective hubert only"):
        peer_of(OurStep("hubert-base", [*TINY[:-1], "--objective.name=best_rq"], SETTING))
    # Refused before anything is measured.
    monkeypatch.setattr("toolkit.bench.pretraining.peak_flops", None)
    monkeypatch.setattr("toolkit.bench.pretraining.Remote", None)
    for arguments, message in {
        "--models hubert-base gpt": "--models: found 'gpt', expected one of: ",
        "--peers gpt": "--peers: found 'gpt', expected one of: ",
        "--peers wavlm-base": "--peers: found a model of type wavlm, expected one with HuBERT's encoder",
        "--peers zipformer-base": "found front end 'waveform' and encoder 'zipformer', expected",
        "--peers hubert-base --objective.name=best_rq": "transformers is compared with the objective hubert",
        "--speech.encoder.heads=2": "unknown key",
    }.items():
        with pytest.raises(UserError, match=message):
            bench.main(["ssl", "--device", "cpu", *arguments.split()])
