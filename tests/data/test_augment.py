"""Waveform augmentation: what it does to the audio, and that it depends on nothing but the generator."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from lhotse import CutSet

from toolkit.data.augment import AugmentConfig, add_noise, augment, change_speed, random_room
from toolkit.data.manifests import mono_cut
from toolkit.data.synthetic import synthetic_cuts
from toolkit.errors import UserError


@pytest.fixture(scope="module")
def cuts() -> CutSet:
    return CutSet.from_cuts(_plain(cut) for cut in synthetic_cuts(4))


def _plain(cut):
    cut.custom = {"source": "synthetic"}
    return cut


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("noise")
    synthetic_cuts(3, seed=7, folder=folder)
    return folder / "cuts.jsonl.gz"


def audio(cuts: CutSet) -> list[np.ndarray]:
    return [cut.load_audio()[0] for cut in cuts]


def level(samples: np.ndarray) -> float:
    return 10 * np.log10(np.mean(samples**2))


def test_the_default_changes_nothing(cuts):
    for before, after in zip(cuts, augment(cuts, AugmentConfig(), random.Random(0)), strict=True):
        assert after is before


def test_equal_generators_give_equal_audio_whatever_the_global_state(cuts, manifest):
    config = AugmentConfig(
        speed=[0.9, 1.0, 1.1], volume_db=(-10, 6), reverb="random", noise=str(manifest), noise_prob=0.7
    )
    torch.manual_seed(1)
    first = audio(augment(cuts, config, random.Random(5)))
    torch.manual_seed(2)
    np.random.seed(2)
    random.seed(2)
    again = audio(augment(cuts, config, random.Random(5)))
    other = audio(augment(cuts, config, random.Random(6)))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(len(a) == len(b) and np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_global_generators_are_left_alone(cuts, manifest):
    config = AugmentConfig(speed=[0.9], reverb="random", reverb_prob=1, noise=str(manifest), noise_prob=1)
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    expected = torch.rand(1).item(), random.random(), np.random.rand()
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    audio(augment(cuts, config, random.Random(5)))
    assert (torch.rand(1).item(), random.random(), np.random.rand()) == expected


def test_speed_changes_duration_and_keeps_the_id(cuts):
    (cut,) = augment(cuts.subset(first=1), AugmentConfig(speed=[1.25]), random.Random(0))
    before = next(iter(cuts))
    assert cut.id == before.id
    assert cut.duration == pytest.approx(before.duration / 1.25, abs=1e-3)
    assert cut.load_audio().shape[1] == cut.num_samples
    assert cut.supervisions[0].duration == pytest.approx(cut.duration, abs=1e-3)


def test_volume_is_within_its_range(cuts):
    config = AugmentConfig(volume_db=(6, 6), volume_prob=1)
    for before, after in zip(audio(cuts), audio(augment(cuts, config, random.Random(0))), strict=True):
        assert level(after) - level(before) == pytest.approx(6, abs=0.01)


@pytest.mark.parametrize("snr", [0.0, 15.0])
def test_noise_has_its_level_and_fills_the_cut(cuts, manifest, snr):
    noises = list(CutSet.from_file(manifest))
    for cut in cuts:
        for noise in (noises, [noises[0].truncate(duration=0.3)]):
            mixed = add_noise(cut, noise, snr, random.Random(1))
            assert (mixed.id, mixed.num_samples) == (cut.id, cut.num_samples)
            assert [s.text for s in mixed.supervisions] == [s.text for s in cut.supervisions]
            clean = cut.load_audio()[0]
            added = mixed.load_audio()[0] - clean
            assert level(clean) - level(added) == pytest.approx(snr, abs=1.0)
            assert np.abs(added[-1600:-800]).max() > 0


@pytest.mark.parametrize("source", ["random", "manifest"])
def test_reverberation_keeps_length_and_level(cuts, manifest, source):
    config = AugmentConfig(reverb="random" if source == "random" else str(manifest), reverb_prob=1)
    for before, after in zip(cuts, augment(cuts, config, random.Random(0)), strict=True):
        dry, wet = before.load_audio()[0], after.load_audio()[0]
        assert dry.shape == wet.shape
        assert level(wet) == pytest.approx(level(dry), abs=0.1)
        assert not np.allclose(dry, wet, atol=1e-3)


def test_rooms_differ_and_repeat():
    first, again, other = (random_room(16000, random.Random(seed)).load_audio() for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert first.shape != other.shape or not np.allclose(first, other)


def test_all_effects_together_keep_custom_fields(cuts, manifest):
    config = AugmentConfig(reverb="random", reverb_prob=1, noise=str(manifest), noise_prob=1)
    labelled = synthetic_cuts(1)
    (cut,) = augment(labelled, config, random.Random(0))
    assert np.array_equal(cut.load_labels(), next(iter(labelled)).load_labels())


def test_speed_is_refused_where_frame_labels_would_not_follow(manifest):
    with pytest.raises(UserError, match="speed: cut .* has 'labels'"):
        augment(synthetic_cuts(1), AugmentConfig(speed=[0.9]), random.Random(0))
    cut = add_noise(next(iter(synthetic_cuts(1))), list(CutSet.from_file(manifest)), 10, random.Random(0))
    with pytest.raises(UserError, match="has 'labels'"):
        change_speed(cut, 0.9)


def test_speed_is_refused_where_effects_would_be_lost(cuts, manifest):
    mixed = add_noise(next(iter(cuts)), list(CutSet.from_file(manifest)), 10, random.Random(0))
    assert len(mixed.tracks) > 1
    assert change_speed(mixed, 0.9).duration == pytest.approx(mixed.duration / 0.9, abs=1e-3)
    with pytest.raises(UserError, match="speed: .* mixture with effects"):
        change_speed(mixed.reverb_rir(random_room(16000, random.Random(0))), 0.9)


def test_missing_noise_is_named(cuts, tmp_path):
    config = AugmentConfig(noise=str(tmp_path / "none.jsonl"), noise_prob=1)
    with pytest.raises(UserError, match="none.jsonl: no such file"):
        augment(cuts, config, random.Random(0))


@pytest.mark.parametrize(
    "key, value",
    [("speed", [0.0]), ("volume_prob", 2), ("noise_prob", -1), ("noise_snr", (20, 5)), ("volume_db", (1, 0))],
)
def test_wrong_settings_are_named(key, value):
    with pytest.raises(UserError, match=key):
        AugmentConfig(**{key: value})


def test_a_cut_that_lhotse_refuses_is_named():
    bare = mono_cut("bare", "none.wav", 16000)
    bare.recording = None
    with pytest.raises(UserError, match=r"^cut bare \(no file\): cannot be augmented: .*without Recording"):
        augment(CutSet.from_cuts([bare]), AugmentConfig(speed=[0.9]), random.Random(0))
