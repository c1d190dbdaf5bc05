"""Decoding and robust reading."""

import io

import av
import numpy as np
import pytest
import soundfile
from lhotse import MonoCut, Recording

from toolkit.data.audio import BadAudio, load_audio
from toolkit.data.codecs import decode, read_header, to_flac, write_flac
from toolkit.data.levels import Limits, Meter
from toolkit.data.manifests import mono_cut
from toolkit.errors import UserError


def tone(seconds: float = 1.0, sampling_rate: int = 16_000, frequency: float = 440.0) -> np.ndarray:
    return (
        0.3 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * sampling_rate)) / sampling_rate)
    ).astype("f4")


def encode(path, samples: np.ndarray, sampling_rate: int, container: str, codec: str) -> None:
    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream(codec, rate=sampling_rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="flt", layout="mono")
        frame.sample_rate = sampling_rate
        shape = av.AudioResampler(stream.format, "mono", sampling_rate, frame_size=stream.frame_size or 1024)
        for part in [*shape.resample(frame), *shape.resample(None), None]:
            file.mux(stream.encode(part))


def whole(path, sampling_rate=None) -> np.ndarray:
    return np.concatenate(list(decode(path, sampling_rate)), axis=1)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_sound_files_decode_to_what_libsndfile_reads(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, np.stack([tone(), tone(frequency=300)], axis=1), 16_000)
    expected, rate = soundfile.read(path, dtype="float32", always_2d=True)
    found = whole(path)
    assert read_header(path)[1:] == (rate, 2)
    # The two libraries end a Vorbis stream within one block of each other.
    length = found.shape[1]
    assert length == len(expected) or (suffix == "ogg" and len(expected) - 256 <= length)
    assert np.abs(found - expected.T[:, :length]).max() < 2e-4


@pytest.mark.parametrize(
    ("container", "codec", "suffix", "rate"),
    [("ipod", "aac", "m4a", 48_000), ("matroska", "pcm_s16le", "mka", 16_000)],
)
def test_other_containers(tmp_path, container, codec, suffix, rate):
    path = tmp_path / f"a.{suffix}"
    encode(path, tone(2.0, rate), rate, container, codec)
    samples = whole(path, 16_000)
    assert abs(samples.shape[1] - 32_000) < 1700
    assert 0.15 < samples[0, 4000:-4000].std() < 0.25


def test_g722_is_read_without_a_header(tmp_path):
    path = tmp_path / "a.g722"
    encode(path, tone(2.0), 16_000, "g722", "g722")
    assert path.stat().st_size == 16_000  # 64 kbit/s
    assert to_flac(path, tmp_path / "a.flac") == 32_000
    samples, rate = soundfile.read(tmp_path / "a.flac")
    spectrum = np.abs(np.fft.rfft(samples))
    assert rate == 16_000 and spectrum.argmax() == 880  # 440 Hz in 2 s


def test_resampling_keeps_pitch_and_duration(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(2.0, 44_100), 44_100)
    assert abs(to_flac(tmp_path / "a.wav", tmp_path / "b.flac") - 32_000) <= 2
    samples, _ = soundfile.read(tmp_path / "b.flac")
    assert np.abs(np.fft.rfft(samples[:32_000])).argmax() == 880


def test_channels_are_averaged_or_chosen(tmp_path):
    left, right = tone(), tone(frequency=1000)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], axis=1), 16_000, subtype="FLOAT")
    to_flac(tmp_path / "a.wav", tmp_path / "mean.flac")
    to_flac(tmp_path / "a.wav", tmp_path / "right.flac", channel=1)
    assert np.abs(soundfile.read(tmp_path / "mean.flac")[0] - (left + right) / 2).max() < 1e-4
    assert np.abs(soundfile.read(tmp_path / "right.flac")[0] - right).max() < 1e-4
    with pytest.raises(BadAudio, match="multi-channel: no channel 2, the file has 2"):
        to_flac(tmp_path / "a.wav", tmp_path / "no.flac", channel=2)
    assert not (tmp_path / "no.flac").exists()


def write_bad(kind: str, path) -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, tone(), 16_000, format="WAV")
    packed = buffer.getvalue()
    if kind == "empty file":
        path.touch()
    elif kind == "text":
        path.write_text("not audio at all " * 50)
    elif kind == "no samples":
        soundfile.write(path, np.zeros(0), 16_000, format="WAV")
    elif kind == "truncated wav":
        path.write_bytes(packed[: len(packed) // 2])
    elif kind == "truncated flac":
        soundfile.write(path, tone() + 0.1 * np.random.default_rng(0).random(16_000), 16_000, format="FLAC")
        path.write_bytes(path.read_bytes()[:5000])
    elif kind == "header only":
        path.write_bytes(packed[:20])
    elif kind == "picture":
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    else:
        assert kind == "missing"


BAD_FILES = {
    "missing": "missing: no such file",
    "empty file": "empty: the file has 0 bytes",
    "text": "not audio",
    "picture": "not audio",
    "header only": "not audio|empty",
    "no samples": "empty: no samples",
    "truncated wav": "truncated: the header says 32000 bytes of samples, found",
    "truncated flac": "truncated: .* after .* of 16000 samples",
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_wav_files_are_refused_with_a_reason(tmp_path, kind):
    path = tmp_path / "a.wav"
    write_bad(kind, path)
    with pytest.raises(BadAudio, match=BAD_FILES[kind]) as caught:
        to_flac(path, tmp_path / "out.flac", limits=Limits())
    assert caught.value.path == str(path) and "\n" not in caught.value.reason
    assert not list(tmp_path.glob("*out*"))


@pytest.mark.parametrize("kind", ["missing", "empty file", "text", "picture"])
@pytest.mark.parametrize("suffix", ["mp3", "m4a", "opus"])
def test_bad_files_of_other_kinds_are_refused_with_a_reason(tmp_path, kind, suffix):
    path = tmp_path / f"a.{suffix}"
    write_bad(kind, path)
    with pytest.raises(BadAudio, match=BAD_FILES[kind]):
        to_flac(path, tmp_path / "out.flac", limits=Limits())


def test_streamed_wav_with_unknown_size_is_not_truncated(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(), 16_000)
    content = bytearray(path.read_bytes())
    place = content.index(b"data") + 4
    content[place : place + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    assert read_header(path).num_samples == 16_000


def test_truncated_m4a(tmp_path):
    path = tmp_path / "a.m4a"
    encode(path, tone(2.0, 48_000), 48_000, "ipod", "aac")
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(BadAudio, match="not audio|truncated"):
        whole(path, 16_000)


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        (np.array([]), "empty: no samples"),
        (np.array([0.1, np.nan, np.inf]), "not finite: 2 of 3 samples"),
        (np.array([1.0, -1.0, 0.1, 0.1]), "clipped: 50.0% of the samples are at full scale, limit 5.0%"),
        (np.full(100, 1e-5), "silent: level -100 dB, limit -70 dB"),
        (np.full(100, 0.1), None),
    ],
)
def test_meter(samples, reason):
    meter = Meter()
    for block in np.array_split(samples, 2):
        meter.add(block)
    problem = meter.problem(Limits())
    assert problem is None if reason is None else problem.startswith(reason)


def test_limits_are_checked():
    with pytest.raises(UserError, match="max_clipped: found 5"):
        Limits(max_clipped=5)


def test_load_audio_reads_a_cut_sample_by_sample(tmp_path):
    samples = tone(2.0)
    soundfile.write(tmp_path / "a.flac", samples, 16_000)
    cut = mono_cut("a", tmp_path / "a.flac", 32_000)
    found = load_audio(cut)
    assert found.dtype == np.float32 and found.shape == (32_000,)
    assert np.abs(found - samples).max() < 1e-4
    assert np.array_equal(load_audio(cut.truncate(offset=0.5, duration=0.25)), found[8000:12_000])


def test_load_audio_says_why_it_cannot(tmp_path):
    path = tmp_path / "a.wav"
    for kind, reason in BAD_FILES.items():
        path.unlink(missing_ok=True)
        write_bad(kind, path)
        with pytest.raises(BadAudio, match=reason.split(":")[0] + "|unreadable"):
            load_audio(mono_cut("a", path, 16_000))


def test_load_audio_compares_the_manifest_with_the_file(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(1.0, 8000), 8000)
    with pytest.raises(BadAudio, match="wrong sampling rate: 8000 Hz, the manifest says 16000 Hz"):
        load_audio(mono_cut("a", path, 32_000))
    soundfile.write(path, tone(1.0), 16_000)
    with pytest.raises(BadAudio, match="truncated: 16000 samples, the manifest says 32000"):
        load_audio(mono_cut("a", path, 32_000))


def test_load_audio_refuses_channels_and_nan(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.stack([tone(), tone()], axis=1), 16_000)
    recording = Recording.from_file(tmp_path / "a.wav", "a")
    with pytest.raises(BadAudio, match="multi-channel: 2 channels, expected 1"):
        load_audio(recording.to_cut())
    samples = tone()
    samples[7] = np.nan
    soundfile.write(tmp_path / "b.wav", samples, 16_000, subtype="FLOAT")
    with pytest.raises(BadAudio, match="not finite"):
        load_audio(mono_cut("b", tmp_path / "b.wav", 16_000))
    with pytest.raises(BadAudio, match="missing: the cut has no recording"):
        load_audio(MonoCut("c", 0, 1, 0, features=None, recording=None))


def test_full_disk_is_told_and_leaves_nothing(tmp_path, monkeypatch):
    def full(self, block):
        raise soundfile.LibsndfileError(2)

    monkeypatch.setattr(soundfile.SoundFile, "write", full)
    with pytest.raises(OSError) as caught:
        write_flac(tmp_path / "deep" / "a.flac", [tone()])
    assert caught.value.filename == str(tmp_path / "deep" / "a.flac")
    assert not list((tmp_path / "deep").iterdir())
