"""The student's view: where pieces are mixed in, how loud, and that it depends on nothing but the generator."""

import math
import random
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from lhotse import CutSet, Recording

from toolkit.config import build
from toolkit.data.augment import AugmentConfig
from toolkit.data.mixing import ViewConfig, student_views
from toolkit.data.synthetic import synthetic_cuts
from toolkit.errors import UserError

RATE = 16000


@pytest.fixture(scope="module")
def batch():
    """Cuts and noise-like waveforms (8, S) of different levels and lengths."""
    cuts = list(synthetic_cuts(8))
    lengths = torch.tensor([16000, 12000, 9000, 15000, 16000, 700, 16000, 14000])
    generator = torch.Generator().manual_seed(0)
    waveforms = torch.randn(8, 16000, generator=generator) * torch.linspace(0.02, 0.3, 8)[:, None]
    waveforms[torch.arange(16000) >= lengths[:, None]] = 0
    return cuts, waveforms, lengths


@pytest.fixture(scope="module")
def noises(tmp_path_factory) -> str:
    """A manifest of two recordings, a long hum and a short one, which no speech looks like."""
    folder = tmp_path_factory.mktemp("noises")
    cuts = []
    for name, seconds, level in (("long", 3.0, 0.25), ("short", 0.05, 0.5)):
        samples = level * (-1.0) ** np.arange(int(seconds * RATE))
        soundfile.write(folder / f"{name}.wav", samples, RATE, subtype="FLOAT")
        cuts.append(Recording.from_file(folder / f"{name}.wav").to_cut())
    CutSet.from_cuts(cuts).to_file(folder / "cuts.jsonl.gz")
    return str(folder / "cuts.jsonl.gz")


def views_of(batch, seed=0, **settings):
    skipped = []
    views = student_views(*batch, ViewConfig(**settings), random.Random(seed), skipped)
    assert skipped == []
    return views


def power(samples):
    return samples.double().square().mean().item()


def touched(difference):
    """First and last sample + 1 that differ, or None."""
    places = difference.nonzero()
    return (int(places[0]), int(places[-1]) + 1) if len(places) else None


def test_nothing_is_made_by_default(batch):
    assert student_views(*batch, ViewConfig(), random.Random(0), []) is None
    assert not ViewConfig(noise="noise.jsonl").changes


def test_equal_generators_give_equal_views_and_the_waveforms_stay(batch, noises):
    before = batch[1].clone()
    settings = {"mix_prob": 0.7, "noise": noises, "noise_prob": 0.5}
    first = views_of(batch, **settings)
    torch.manual_seed(5)
    random.seed(5)
    assert torch.equal(first, views_of(batch, **settings))
    assert not torch.equal(first, views_of(batch, seed=1, **settings))
    assert torch.equal(batch[1], before) and not torch.equal(first, before)


@pytest.mark.parametrize("ratio", [-4.0, 3.0])
def test_pieces_are_those_of_another_utterance_at_the_wanted_level(batch, ratio):
    cuts, waveforms, lengths = batch
    views = views_of(batch, mix_prob=1.0, speech_ratio=(ratio, ratio))
    found = 0
    for row, length in enumerate(lengths.tolist()):
        difference = views[row] - waveforms[row]
        start, end = touched(difference)
        assert end <= length and end - start <= length // 2
        # Its beginning tells which stretch of another utterance it is a multiple of.
        piece = difference[start : min(end, start + 64)].double()
        for other, size in enumerate(lengths.tolist()):
            source = waveforms[other, :size].double()
            windows = source.unfold(0, len(piece), 1)
            similarity = (windows @ piece) / windows.norm(dim=1) / piece.norm()
            if len(piece) >= 30 and similarity.max() > 0.999:
                assert other != row
                scale = piece.norm() / windows[int(similarity.argmax())].norm()
                level = power(waveforms[row, :length]) / (scale**2 * power(source))
                assert 10 * math.log10(level) == pytest.approx(ratio, abs=0.01)
                found += 1
    assert found >= 7  # of the shortest utterance there may be too little for a proof


def test_as_many_utterances_are_mixed_as_wanted_with_ratios_sizes_and_places_spread_evenly(batch):
    cuts, waveforms, lengths = batch
    pair = cuts[:2], waveforms[:1].expand(2, -1).clone(), lengths[:1].expand(2)
    ratios, sizes, centres, count = [], [], [], 0
    for seed in range(1500):
        views = views_of(pair, seed, mix_prob=0.2)
        for row in (0, 1):
            place = touched(views[row] - pair[1][row])
            if place is not None:
                count += 1
                sizes.append(place[1] - place[0])
                centres.append(sum(place) / 2)
    assert count / 3000 == pytest.approx(0.2, abs=0.03)
    assert np.mean(sizes) == pytest.approx(4000, rel=0.08) and max(sizes) <= 8000
    assert np.mean(centres) == pytest.approx(8000, rel=0.05)
    for seed in range(400):
        views = views_of(pair, seed, mix_prob=1.0, max_share=1.0)
        start, end = touched(views[0] - pair[1][0])
        if end - start > 4000:
            scale = power(views[0, start:end] - pair[1][0, start:end]) / power(pair[1][0])
            ratios.append(-10 * math.log10(scale))
    assert -5.3 < min(ratios) < -4.5 and 4.5 < max(ratios) < 5.3
    assert np.mean(ratios) == pytest.approx(0, abs=0.6)


def test_noise_is_read_from_its_manifest_and_mixed_by_its_own_level(batch, noises):
    cuts, waveforms, lengths = batch
    found = set()
    for seed in range(10):
        views = views_of(batch, seed, mix_prob=1.0, noise=noises, noise_prob=1.0, noise_ratio=(7.0, 7.0))
        for row, length in enumerate(lengths.tolist()):
            difference = views[row] - waveforms[row]
            start, end = touched(difference)
            assert end <= length and end - start <= length // 2
            piece = difference[start:end]
            # The hum alternates between two values.
            torch.testing.assert_close(piece.abs(), piece.abs().mean().expand_as(piece), rtol=1e-3, atol=1e-5)
            assert (piece[1:] * piece[:-1] < 0).all()
            assert 10 * math.log10(power(waveforms[row, :length]) / power(piece)) == pytest.approx(
                7, abs=0.02
            )
            found.add(end - start == 800)
    assert found == {True, False}  # the short recording is taken whole


def test_an_utterance_alone_and_a_placeholder_have_nothing_to_be_mixed_with(batch):
    cuts, waveforms, lengths = batch
    alone = cuts[:1], waveforms[:1], lengths[:1]
    assert torch.equal(views_of(alone, mix_prob=1.0), waveforms[:1])
    silence = torch.zeros(1, RATE)
    assert torch.equal(views_of(([], silence, torch.tensor([RATE])), mix_prob=1.0), silence)


def test_the_view_alone_is_augmented(noises):
    cuts = list(synthetic_cuts(10))
    waveforms = [torch.from_numpy(cut.load_audio()[0]) for cut in cuts]
    lengths = torch.tensor([len(samples) for samples in waveforms])
    padded = torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True)
    quieter = AugmentConfig(volume_db=(-6.0, -6.0), volume_prob=0.5)
    views = views_of((cuts, padded, lengths), augment=quieter)
    changed = [not torch.equal(view, clean) for view, clean in zip(views, padded, strict=True)]
    assert set(changed) == {True, False}
    torch.testing.assert_close(views[changed], padded[changed] * 10 ** (-6 / 20), atol=1e-4, rtol=0)
    views = views_of((cuts, padded, lengths), augment=AugmentConfig(noise=noises, noise_prob=1.0))
    hum = views - padded
    assert ((hum[:, 1:8000] * hum[:, :7999]) < 0).float().mean() > 0.99
    assert not views[torch.arange(padded.shape[1]) >= lengths[:, None]].any()


def test_recordings_that_cannot_be_read_are_listed(batch, noises, tmp_path):
    cuts = list(CutSet.from_file(noises))
    for cut in cuts:
        cut.recording.sources[0].source = str(tmp_path / f"{cut.id}.wav")
    manifest = tmp_path / "missing.jsonl.gz"
    CutSet.from_cuts(cuts).to_file(manifest)
    skipped = []
    config = ViewConfig(mix_prob=1.0, noise=str(manifest), noise_prob=1.0)
    views = student_views(*batch, config, random.Random(0), skipped)
    assert torch.equal(views, batch[1]) and len(skipped) == 8
    assert skipped[0]["reason"] == "missing: no such file (in a student's view)"
    assert Path(skipped[0]["path"]).parent == tmp_path


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mix_prob": 2.0}, r"test: top level: mix_prob must be in \[0, 1\], got 2.0"),
        ({"noise_prob": -1.0}, "noise_prob must be in"),
        ({"max_share": 0.0}, r"max_share must be in \(0, 1\]"),
        ({"speech_ratio": [5, -5]}, r"speech_ratio must have its lower limit first, got \[5.0, -5.0\]"),
        ({"augment": {"speed": [0.9]}}, r"augment.speed must be empty, .* got \[0.9\]"),
        ({"noise": "nowhere.jsonl", "mix_prob": 1.0, "noise_prob": 1.0}, "nowhere.jsonl: "),
    ],
)
def test_impossible_settings(settings, message, batch):
    with pytest.raises(UserError, match=message):
        student_views(*batch, build(ViewConfig, settings, "test"), random.Random(0), [])
