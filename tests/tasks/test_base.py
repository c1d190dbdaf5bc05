"""What all tasks share: where data comes from, and pretrained encoders."""

from itertools import islice

import pytest
import torch
import yaml
from lhotse import CutSet
from lhotse.utils import fastcopy

from toolkit import load
from toolkit.config import build
from toolkit.data.manifests import mono_cut, open_cuts, write_cuts
from toolkit.data.shar import write_shar
from toolkit.data.synthetic import synthetic_cuts
from toolkit.errors import UserError
from toolkit.models.base import SpeechConfig
from toolkit.tasks.asr import AsrConfig, AsrTask
from toolkit.tasks.base import check_speech, named_cuts
from toolkit.tasks.load import save_model
from toolkit.tasks.speaker import SpeakerConfig, SpeakerTask
from toolkit.tasks.ssl import SslConfig, SslTask

SPEECH = {"encoder": {"dim": 16, "num_layers": 1, "num_heads": 2, "feed_forward_dim": 16, "kernel_size": 3}}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cuts")
    synthetic_cuts(9, folder=folder)
    return folder / "cuts.jsonl.gz"


def asr(folder, manifest, **changes):
    data = {"train": str(manifest), "valid": str(manifest), "sampler": {"max_duration": 6, "num_buckets": 2}}
    raw = {"data": data | changes.pop("data", {}), "speech": SPEECH} | changes
    task = AsrTask(build(AsrConfig, raw, "test"), folder, seed=0)
    task.prepare()
    return task


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained")
    torch.manual_seed(5)
    task = SslTask(build(SslConfig, {"speech": SPEECH}, "test"), folder, seed=0)
    save_model(folder, task.build_model(), task.config)
    return folder


def test_a_pretrained_encoder_is_taken_over(tmp_path, manifest, pretrained):
    task = asr(tmp_path, manifest, init={"model": str(pretrained), "lr_factor": 0.1})
    model, said = task.build_model(), []
    head = model.ctc[1].weight.clone()
    task.initialize(model, said.append)
    source = load(pretrained)
    for name, tensor in source.speech.state_dict().items():
        assert torch.equal(model.speech.state_dict()[name], tensor), name
    assert torch.equal(model.ctc[1].weight, head)
    assert said == [f"encoder from {pretrained / 'model.safetensors'}"]
    assert task.is_pretrained("speech.encoder.x") and not task.is_pretrained("head.1.weight")
    assert (task.lr_factor("speech.encoder.x"), task.lr_factor("head.1.weight")) == (0.1, 1.0)


def test_without_a_pretrained_encoder_nothing_is(tmp_path, manifest):
    task = asr(tmp_path, manifest, init={"lr_factor": 0.1})
    task.initialize(task.build_model(), pytest.fail)
    assert not task.is_pretrained("speech.encoder.x") and task.lr_factor("speech.encoder.x") == 1.0


def test_an_encoder_of_another_size(tmp_path, manifest, pretrained):
    other = {"encoder": SPEECH["encoder"] | {"dim": 32}}
    task = asr(tmp_path, manifest, init={"model": str(pretrained)}, speech=other)
    with pytest.raises(UserError, match="speech.encoder.dim: found 32, expected 16 as in .*config.yaml"):
        task.initialize(task.build_model(), print)
    task = asr(tmp_path, manifest, init={"model": str(tmp_path / "none")})
    with pytest.raises(UserError, match="none/model.safetensors: no such file, expected a checkpoint"):
        task.initialize(task.build_model(), print)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"encoder": {"num_heads": 4}}, "speech.encoder.num_heads: found 4, expected 2 as in .*config.yaml"),
        (
            {"frontend": {"sample_rate": 8000}},
            "speech.frontend.sample_rate: found 8000, expected 16000 as in",
        ),
        (
            {"encoder": {"dim": 32, "num_layers": 2, "num_heads": 4, "kernel_size": 5}},
            "speech.encoder.dim: found 32, expected 16; .*num_layers: .*num_heads: .*; and 1 more as in",
        ),
    ],
)
def test_an_encoder_of_other_settings(tmp_path, manifest, pretrained, section, message):
    speech = {
        "encoder": SPEECH["encoder"] | section.get("encoder", {}),
        "frontend": section.get("frontend", {}),
    }
    task = asr(tmp_path, manifest, init={"model": str(pretrained)}, speech=speech)
    with pytest.raises(UserError, match=message):
        task.initialize(task.build_model(), print)


def test_what_shows_in_training_alone_may_differ_from_pretraining(tmp_path, manifest, pretrained):
    speech = {"encoder": SPEECH["encoder"] | {"dropout": 0.3}, "frontend": {"backend": "auto"}}
    task, said = asr(tmp_path, manifest, init={"model": str(pretrained)}, speech=speech), []
    task.initialize(task.build_model(), said.append)
    assert len(said) == 1


@pytest.mark.parametrize("key", ["layer_drop", "checkpointing"])
def test_a_transformer_may_be_trained_in_another_way(tmp_path, key):
    encoder = {"name": "transformer", "dim": 16, "num_layers": 1, "num_heads": 2, "feed_forward_dim": 16}
    speech = {"frontend": {"name": "waveform"}, "encoder": encoder}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"speech": speech}))
    same, other = (
        build(SpeechConfig, speech | {"encoder": encoder | changes}, "test")
        for changes in ({key: 0.2 if key == "layer_drop" else True}, {"norm_first": True})
    )
    same.frontend.feature_grad_mult = 0.0
    check_speech(same, path)
    with pytest.raises(UserError, match="^speech.encoder.norm_first: found True, expected False as in"):
        check_speech(other, path)


def test_a_zipformer_may_be_trained_with_other_chunks(tmp_path):
    encoder = {"name": "zipformer", "causal": True}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"speech": {"encoder": encoder}}))
    whole = {"chunk_sizes": [-1], "left_contexts": [-1], "unmasked_dims": [128], "updates_scale": 20.0}
    check_speech(build(SpeechConfig, {"encoder": encoder | whole}, "test"), path)
    with pytest.raises(UserError, match="^speech.encoder.chunk_size: found -1, expected 32 as in"):
        check_speech(build(SpeechConfig, {"encoder": encoder | {"chunk_size": -1}}, "test"), path)


def test_validation_is_one_plain_pass(tmp_path, manifest):
    quiet = {"volume_db": [-20.0, -20.0], "volume_prob": 1.0}
    task = asr(tmp_path, manifest, data={"augment": quiet})
    task.build_model()
    found = [batch for _, batch in task.validation_batches(0, 1, False)]
    assert sum((batch.ids for batch in found), []) == [cut.id for cut in synthetic_cuts(9)]
    plain = {name: row for batch in found for name, row in zip(batch.ids, batch.waveforms, strict=True)}
    _, changed = next(iter(task.training_batches((0, 0, 0), 0, 0, 1, False)))
    for name, row, length in zip(changed.ids, changed.waveforms, changed.lengths, strict=True):
        torch.testing.assert_close(10 * row[:length], plain[name][:length])
    assert asr(tmp_path, manifest, data={"valid": None}).validation_batches(0, 1, False) == []


def test_the_largest_batches(tmp_path, manifest):
    task = asr(tmp_path, manifest)
    task.build_model()
    batches = [
        batch
        for _, (_, batch) in zip(range(5), task.training_batches((0, 0, 0), 0, 0, 1, False), strict=False)
    ]
    largest = task.largest_batches(5)
    assert largest[0].padded_seconds == pytest.approx(max(batch.padded_seconds for batch in batches))
    assert max(len(batch.ids) for batch in largest) == max(len(batch.ids) for batch in batches)


def test_the_largest_batches_are_those_at_the_lowest_speed(tmp_path, manifest):
    # Labels of frames could not follow the speed.
    write_cuts(tmp_path / "cuts.jsonl", (fastcopy(cut, custom=None) for cut in open_cuts(manifest)))
    plain, slowed = (
        asr(tmp_path / name, tmp_path / "cuts.jsonl", data={"augment": {"speed": speed}})
        for name, speed in (("plain", []), ("slowed", [1.1, 0.8]))
    )
    for task in (plain, slowed):
        task.build_model()
    for one, other in zip(plain.largest_batches(5), slowed.largest_batches(5), strict=True):
        assert other.padded_seconds == pytest.approx(one.padded_seconds / 0.8, rel=1e-3)


def test_cropped_cuts_fill_batches_as_their_crops(tmp_path, manifest):
    sampler = {"max_duration": 5.0, "max_seconds": 0.6, "num_buckets": 2}
    raw = {"data": {"train": str(manifest), "sampler": sampler}, "speech": SPEECH, "crop_seconds": 0.5}
    task = SpeakerTask(build(SpeakerConfig, raw, "test"), tmp_path, seed=0)
    task.prepare()
    task.build_model()
    _, batch = next(iter(task.training_batches((0, 0, 0), 0, 0, 1, False)))
    assert len(batch.ids) == 9 and batch.padded_seconds == 4.5 and not batch.skipped
    (largest,) = task.largest_batches(1)
    assert largest.padded_seconds == 4.5


def test_shards_are_read_in_another_order_in_every_epoch(tmp_path, manifest):
    write_shar(open_cuts(manifest), tmp_path / "shar", 1, "flac", pytest.fail)
    sampler = {"max_duration": 4, "num_buckets": 1, "shar_buffer_size": 2}
    task = asr(tmp_path, tmp_path / "shar", data={"sampler": sampler})
    task.build_model()
    orders = [[cut.id for cut in task.training_cuts(epoch)] for epoch in (0, 1, 2)]
    assert len(set(map(tuple, orders))) == 3 and len(set(map(frozenset, orders))) == 1
    assert [cut.id for cut in task.validation_cuts()] == [cut.id for cut in open_cuts(manifest)]

    def batches(start, consumed, count):
        loader = task.training_batches(start, consumed, 0, 1, False)
        return [(position, batch.ids) for position, batch in islice(loader, count)]

    whole = batches((0, 0, 0), 0, 20)
    assert whole[-1][0].epoch >= 2
    # Few are held in memory, so that the order of the shards shows in the first batch.
    assert set(whole[0][1]) <= set(orders[0][:6])
    for consumed in (5, 11, 17):
        assert batches(whole[consumed][0], consumed, 20 - consumed) == whole[consumed:]


def test_cuts_at_another_rate_are_refused(tmp_path):
    path = tmp_path / "cuts.jsonl"
    write_cuts(path, [mono_cut("slow", "none.wav", 8000, 8000, text="a word")])
    task = asr(tmp_path, path)
    message = "cuts.jsonl: found cut slow at 8000 Hz, expected 16000 Hz as in speech.frontend.sample_rate"
    with pytest.raises(UserError, match=message):
        next(iter(task.training_batches((0, 0, 0), 0, 0, 1, False)))
    with pytest.raises(UserError, match=message):
        list(task.validation_batches(0, 1, False))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "data.train: found nothing, expected a cuts manifest or a Shar folder"),
        ("synthetic:", "data.train: found 'synthetic:', expected synthetic:N with a number of cuts"),
        ("synthetic:0", "expected synthetic:N with a number of cuts"),
        ("synthetic:-3", "expected synthetic:N with a number of cuts"),
        ("none.jsonl.gz", "none.jsonl.gz: no such file"),
    ],
)
def test_data_that_is_not_there(name, message):
    with pytest.raises(UserError, match=message):
        named_cuts(name, "data.train")


def test_synthetic_validation_differs_from_training():
    train, valid = named_cuts("synthetic:2", "data.train"), named_cuts("synthetic:2", "data.valid")
    assert isinstance(train, CutSet) and {cut.id for cut in train}.isdisjoint(cut.id for cut in valid)
