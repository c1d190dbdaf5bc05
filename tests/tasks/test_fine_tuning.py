"""Fine-tuning of pretrained encoders: what is added to them, and learning rates that fall from layer to layer."""

from itertools import repeat

import pytest
import torch

import toolkit
from tests.models.test_invariance import FRONT, TRANSFORMER
from tests.tasks.small import SMALLER_ENCODER
from toolkit import checkpoint, config
from toolkit.bin import export
from toolkit.errors import UserError
from toolkit.models.adaptation import is_added
from toolkit.optim.build import build_optimizer
from toolkit.tasks import task_class
from toolkit.tasks.load import save_model
from toolkit.train.distributed import World
from toolkit.train.loop import Trainer

SPEECH = {"encoder": SMALLER_ENCODER | {"num_layers": 3}}
HEADS = {
    "asr": {},
    "speaker": {"head": {"hidden_dim": 8, "attention_dim": 4, "embedding_dim": 8}},
    "diarization": {
        "chunk_seconds": 1,
        "head": {"hidden_dim": 16, "num_layers": 1, "num_heads": 2, "feed_forward_dim": 16, "kernel_size": 3},
    },
}
ADAPTATIONS = {
    "lora": {"name": "lora", "rank": 2, "targets": ["."]},
    "adapters": {"name": "adapters", "dim": 4},
}
AUDIO = 0.1 * torch.sin(torch.arange(8000) / 9).expand(1, -1), torch.tensor([8000])


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained")
    torch.manual_seed(5)
    cls = task_class("encoder", "test")
    settings = config.build(cls.Config, {"speech": SPEECH}, "test")
    save_model(folder, cls(settings, folder, 0).build_model(), settings)
    return folder


def fine_tuning(name, folder, pretrained, speech=SPEECH, **init):
    raw = {
        "data": {"train": "synthetic:8", "sampler": {"max_duration": 8, "num_buckets": 1}},
        "speech": speech,
        "init": {"model": str(pretrained), "lr_factor": 0.1} | init,
        "train": {"average_decay": 0.9},
    }
    cls = task_class(name, "test")
    torch.manual_seed(0)
    task = cls(config.build(cls.Config, raw | HEADS[name], "test"), folder, seed=0)
    task.prepare()
    return task


def frames(model):
    with torch.no_grad():
        return model.eval().speech(*AUDIO).frames


@pytest.mark.usefixtures("process_settings")
@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("kind", ADAPTATIONS)
def test_an_adapted_encoder_from_start_to_model_directory(tmp_path, pretrained, name, kind):
    """It begins as the pretrained one; training moves what was added alone; what is saved is loaded as it was."""
    task = fine_tuning(name, tmp_path / "model", pretrained, adaptation=ADAPTATIONS[kind])
    settings = task.config
    world = World(0, 1, torch.device("cpu"))
    trainer = Trainer(task, settings.train, settings.optim, config.to_dict(settings), 0, tmp_path, world)
    model = trainer.state.model
    torch.testing.assert_close(frames(model), frames(toolkit.load(pretrained)))
    assert f"which stays; {kind} is trained" in (tmp_path / "log.txt").read_text()
    before = {n: p.clone() for n, p in model.named_parameters() if n.startswith("speech.")}
    batches = repeat(next(iter(trainer._training_batches())))
    model.train()
    for _ in range(2):
        trainer._update(batches)
    after = dict(model.named_parameters())
    moved = {n for n, p in before.items() if not torch.equal(p, after[n])}
    assert moved and all(map(is_added, moved))
    best = trainer.state.best_weights
    save_model(tmp_path / "model", best, settings)
    assert torch.equal(frames(toolkit.load(tmp_path / "model")), frames(best))


def test_what_is_added_learns_at_the_full_rate_from_the_first_update(tmp_path, pretrained):
    task = fine_tuning("speaker", tmp_path, pretrained, adaptation=ADAPTATIONS["lora"])
    model = task.build_model()
    optimizer = build_optimizer(model, task.config.optim, task.lr_factor, task.is_pretrained)
    assert all(group["lr_factor"] == 1 and not group["pretrained"] for group in optimizer.param_groups)


def changed(task):
    """Its model with what was added moved off its initial values."""
    model = task.build_model()
    task.initialize(model, lambda text: None)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if is_added(name):
                parameter.add_(0.3 * torch.randn_like(parameter))
    save_model(task.model_dir, model, task.config)
    return model


def test_a_model_that_was_adapted_is_one_to_begin_with(tmp_path, pretrained):
    model = changed(fine_tuning("speaker", tmp_path / "first", pretrained, adaptation=ADAPTATIONS["lora"]))
    for kind in ("none", *ADAPTATIONS):
        adaptation = ADAPTATIONS.get(kind, {"name": kind})
        task = fine_tuning("speaker", tmp_path / kind, tmp_path / "first", adaptation=adaptation)
        second = task.build_model()
        task.initialize(second, lambda text: None)
        torch.testing.assert_close(frames(second), frames(model), rtol=1e-4, atol=1e-5)
    changed(fine_tuning("speaker", tmp_path / "other", pretrained, adaptation=ADAPTATIONS["adapters"]))
    task = fine_tuning("speaker", tmp_path / "third", tmp_path / "other")
    with pytest.raises(
        UserError, match="other/model.safetensors: found an encoder with adapters, expected one with"
    ):
        task.initialize(task.build_model(), print)


@pytest.mark.parametrize("kind", ADAPTATIONS)
def test_other_programs_get_merged_weights_or_none(tmp_path, kind):
    speech = {
        "frontend": {"name": "waveform"} | FRONT["waveform"][0],
        "encoder": {"name": "transformer"} | TRANSFORMER,
    }
    cls = task_class("encoder", "test")
    settings = config.build(cls.Config, {"speech": speech}, "test")
    save_model(tmp_path / "old", cls(settings, tmp_path, 0).build_model(), settings)
    adaptation = ADAPTATIONS[kind]
    task = fine_tuning("speaker", tmp_path / "new", tmp_path / "old", adaptation=adaptation, speech=speech)
    model = changed(task)
    command = ["--to", "hf", "--model", str(tmp_path / "new"), str(tmp_path / "hf")]
    if kind == "adapters":
        with pytest.raises(
            UserError, match="init.adaptation: found encoder.layers.0.adapter.norm.weight in the enc"
        ):
            export.main(command)
        return
    export.main(command)
    written, _ = checkpoint.load(tmp_path / "hf" / "model.safetensors")
    out = model.speech.encoder.layers[1].attention.out
    torch.testing.assert_close(written["encoder.layers.1.attention.out_proj.weight"], out.merged().weight)
    assert not torch.equal(out.merged().weight, out.weight)


def test_lower_layers_learn_more_slowly(tmp_path, pretrained):
    task = fine_tuning("speaker", tmp_path, pretrained, layer_decay=0.5)
    model = task.build_model()
    factors = {name: task.lr_factor(name) for name, _ in model.named_parameters()}
    for above, part in enumerate(("layers.2", "layers.1", "layers.0", "subsample")):
        found = {value for name, value in factors.items() if name.startswith(f"speech.encoder.{part}.")}
        assert found == {0.1 * 0.5**above}
    assert factors["embedding.2.weight"] == 1.0
    optimizer = build_optimizer(model, task.config.optim, task.lr_factor, task.is_pretrained)
    assert {group["lr_factor"] for group in optimizer.param_groups} == set(factors.values())


@pytest.mark.parametrize(
    ("name", "init", "message"),
    [
        ("speaker", {"model": None, "adaptation": {"name": "lora"}}, "found lora without a pretrained model"),
        ("speaker", {"layer_decay": 0.0}, "layer_decay must be over 0 and at most 1"),
        ("speaker", {"layer_decay": 1.1}, "layer_decay must be over 0 and at most 1"),
        (
            "speaker",
            {"adaptation": {"name": "laura"}},
            "init.adaptation.name: found 'laura'; nearest valid: .*lora",
        ),
        (
            "ssl",
            {"adaptation": {"name": "adapters"}},
            "init.adaptation is for tasks with a target, expected none",
        ),
    ],
)
def test_impossible_settings(pretrained, name, init, message):
    with pytest.raises(UserError, match=message):
        config.build(task_class(name, "test").Config, {"init": {"model": str(pretrained)} | init}, "test")


def test_targets_that_the_encoder_has_not(tmp_path, pretrained):
    task = fine_tuning("speaker", tmp_path, pretrained, adaptation={"name": "lora", "targets": ["value"]})
    with pytest.raises(UserError, match="targets: found 'value', which is in the name of no linear layer"):
        task.build_model()
