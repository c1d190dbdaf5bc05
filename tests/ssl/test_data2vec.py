"""The data2vec objective against plain loops in double precision; its teacher; that it does not collapse."""

import copy
import math
import random

import pytest
import torch
from torch.nn.functional import gelu

from tests.tasks.small import ENCODER
from toolkit import checkpoint
from toolkit.config import build
from toolkit.data.synthetic import synthetic_cuts
from toolkit.errors import UserError
from toolkit.models.base import SpeechConfig, SpeechEncoder
from toolkit.models.output import EncoderOutput
from toolkit.ssl.data2vec import Data2vecConfig, Data2vecObjective, instance_norm, variance
from toolkit.ssl.masking import MaskConfig
from toolkit.ssl.model import SslModel
from toolkit.tasks.load import load_model, save_model
from toolkit.tasks.ssl import SslConfig, SslTask

SMALL = {"top_layers": 2, "masks": 2, "decoder_dim": 16, "decoder_layers": 2, "decoder_groups": 4}
SIZES = ENCODER | {"num_layers": 2, "subsampling": 2}


def make(seed=0, encoder=None, **settings):
    """A model with the objective, in eval mode."""
    torch.manual_seed(seed)
    speech = SpeechEncoder(build(SpeechConfig, {"encoder": SIZES | (encoder or {})}, "test"))
    return SslModel(speech, Data2vecObjective(build(Data2vecConfig, SMALL | settings, "test"), speech)).eval()


def audio(lengths=(16000, 9000, 5000)):
    """Noise, zero past an utterance's end."""
    waveforms = torch.zeros(len(lengths), max(lengths))
    for index, length in enumerate(lengths):
        waveforms[index, :length] = 0.1 * torch.randn(length, generator=torch.Generator().manual_seed(index))
    return waveforms, torch.tensor(lengths), torch.arange(len(lengths)) + 5


def disturbed(model, scale=0.3):
    """Moves the student away from its teacher."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.speech.parameters():
            parameter += (
                scale * parameter.std(correction=0) * torch.randn(parameter.shape, generator=generator)
            )
    return model


def normalised(frames):
    """A list of frames, each a list of numbers: zero mean, unit variance of every dimension over time."""
    columns = []
    for column in zip(*frames, strict=True):
        mean = math.fsum(column) / len(column)
        spread = math.fsum((value - mean) ** 2 for value in column) / len(column)
        columns.append([(value - mean) / math.sqrt(spread + 1e-5) for value in column])
    return [list(frame) for frame in zip(*columns, strict=True)]


def decoded(decoder, frames):
    """The decoder's convolutions written out, for the frames (T, D) of one utterance."""
    x = frames
    for conv in decoder.convs:
        width, size = conv.weight.shape[1], conv.weight.shape[0] // conv.groups
        rows = []
        for time in range(len(x)):
            row = conv.bias.clone()
            for offset in range(conv.kernel_size[0]):
                place = time + offset - conv.kernel_size[0] // 2
                if 0 <= place < len(x):
                    for group in range(conv.groups):
                        out = slice(group * size, (group + 1) * size)
                        row[out] += (
                            conv.weight[out, :, offset] @ x[place, group * width : (group + 1) * width]
                        )
            rows.append(row)
        y = torch.stack(rows)
        y = (y - y.mean(1, keepdim=True)) / (y.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
        x = gelu(y) + x if y.shape == x.shape else gelu(y)
    return x @ decoder.project.weight.T + decoder.project.bias


def spread(rows):
    """Squared distance of frames from their mean, summed over frames, as a mean over dimensions."""
    mean = [math.fsum(column) / len(rows) for column in zip(*rows, strict=True)]
    return math.fsum((a - b) ** 2 for row in rows for a, b in zip(row, mean, strict=True)) / len(mean)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"layer_norm": True, "top_layers": 1},
        {"share_frontend": False, "masks": 1},
        {"unmasked_weight": 0.5},
    ],
)
def test_loss_and_variances(settings):
    model = disturbed(make(**settings))
    waveforms, lengths, seeds = audio()
    objective, decoder = model.objective, copy.deepcopy(model.objective.decoder).double()
    found, stats, weight = model(waveforms, lengths, seeds)
    masks, top = objective.config.masks, objective.config.top_layers
    total, count, of_targets, of_predictions = 0.0, 0, 0.0, 0.0
    for row, length in enumerate(lengths.tolist()):
        alone = waveforms[row : row + 1, :length], lengths[row : row + 1]
        speech = model.speech if objective.config.share_frontend else objective.teacher
        encoder = objective.teacher if objective.config.share_frontend else objective.teacher.encoder
        with torch.no_grad():
            layers = encoder.encode(*speech.latents(*alone)).layers[-top:]
        kinds = [normalised(layer[0].tolist()) for layer in layers]
        target = [
            [sum(values) / top for values in zip(*rows, strict=True)] for rows in zip(*kinds, strict=True)
        ]
        if objective.config.layer_norm:
            target = torch.nn.functional.layer_norm(torch.tensor(target, dtype=torch.float64), (32,)).tolist()
        mask = objective.mask(model.speech.latent_lengths(alone[1]), len(target), seeds[row : row + 1])
        assert mask.shape == (masks, len(target))
        for own in mask:
            output = model.speech(*alone, own[None])
            predicted = decoded(decoder, output.frames[0].double()).tolist()
            hidden = own.nonzero()[:, 0].tolist()
            for time, is_hidden in enumerate(own.tolist()):
                error = sum((a - b) ** 2 for a, b in zip(predicted[time], target[time], strict=True)) / 32
                total += error if is_hidden else objective.config.unmasked_weight * error
            count += len(hidden)
            of_targets += spread([target[time] for time in hidden])
            of_predictions += spread([predicted[time] for time in hidden])
    assert weight.item() == count > 40
    assert found.item() == pytest.approx(total, rel=1e-4)
    assert stats["target_variance"].item() == pytest.approx(of_targets, rel=1e-4)
    assert stats["prediction_variance"].item() == pytest.approx(of_predictions, rel=1e-4)


def test_masks_of_an_utterance_differ_and_hide_half():
    objective = make(masks=3).objective
    found = objective.mask(torch.tensor([50, 31]), 50, torch.tensor([1, 2]))
    assert found.shape == (6, 50)
    assert found.sum(1).tolist() == [25, 25, 25, 15, 15, 15]
    assert len({tuple(row.tolist()) for row in found}) == 6
    alone = objective.mask(torch.tensor([31]), 31, torch.tensor([2]))
    assert torch.equal(alone, found[3:, :31])


@pytest.mark.parametrize("share", [True, False])
def test_the_loss_does_not_depend_on_what_shares_the_batch(share):
    model = disturbed(make(share_frontend=share))
    waveforms, lengths, seeds = audio()
    together = model(waveforms, lengths, seeds)
    alone = [
        model(waveforms[row : row + 1, :length], lengths[row : row + 1], seeds[row : row + 1])
        for row, length in enumerate(lengths.tolist())
    ]
    assert together[0].item() == pytest.approx(sum(loss.item() for loss, _, _ in alone), rel=1e-4)
    assert together[2] == sum(weight for _, _, weight in alone)
    for name, value in together[1].items():
        assert value.item() == pytest.approx(sum(stats[name].item() for _, stats, _ in alone), rel=1e-4)


def test_what_padding_holds_does_not_matter():
    model = make()
    waveforms, lengths, seeds = audio()
    objective = model.objective
    latent_lengths = model.speech.latent_lengths(lengths)
    mask = objective.mask(latent_lengths, 50, seeds)
    output = model.speech(waveforms, lengths, mask)
    padding = torch.arange(50) >= output.lengths[:, None]
    latents = output.latents.masked_fill(padding[::2, :, None], 1e4)
    spoilt = output._replace(
        frames=output.frames.detach().masked_fill(padding[..., None], math.nan).requires_grad_(),
        latents=latents,
    )
    expected = objective.loss(output, (None, latent_lengths), None, mask, seeds)
    found = objective.loss(spoilt, (None, latent_lengths), None, mask, seeds)
    assert found[0] == expected[0] and found[1] == expected[1]
    found[0].backward()
    assert spoilt.frames.grad.isfinite().all() and spoilt.frames.grad.abs().sum() > 0
    assert not spoilt.frames.grad[padding].any()


def test_a_changed_view_reaches_the_student_alone():
    model = disturbed(make())
    waveforms, lengths, seeds = audio()
    plain, _, _ = model(waveforms, lengths, seeds)
    same, _, _ = model(waveforms, lengths, seeds, views=waveforms)
    assert same.item() == pytest.approx(plain.item(), rel=1e-5)
    noisy = waveforms + 0.05 * torch.randn(waveforms.shape, generator=torch.Generator().manual_seed(9))
    changed = model(waveforms, lengths, seeds, views=noisy)
    others = model(noisy, lengths, seeds)
    # The targets' variance is that of the clean audio, whatever the student hears.
    clean = model(waveforms, lengths, seeds)[1]["target_variance"]
    assert changed[1]["target_variance"].item() == pytest.approx(clean.item(), rel=1e-5)
    assert others[1]["target_variance"].item() != pytest.approx(clean.item(), rel=1e-3)
    assert changed[0].item() != pytest.approx(plain.item(), rel=1e-4)


@pytest.mark.parametrize("share", [True, False])
def test_the_teacher_follows(share):
    model = make(share_frontend=share, decay=0.9, final_decay=0.99, decay_updates=10)
    teacher = model.objective.teacher
    before = {name: value.clone().double() for name, value in teacher.state_dict().items()}
    student = (disturbed(model).speech.encoder if share else disturbed(model).speech).state_dict()
    assert before.keys() == student.keys()
    expected = dict(before)
    for update, decay in ((0, 0.9), (5, 0.945), (10, 0.99), (1000, 0.99)):
        model.set_update(update)
        model.objective.after_update(model.speech)
        expected = {name: decay * value + (1 - decay) * student[name] for name, value in expected.items()}
    for name, value in teacher.state_dict().items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)
    moved = [not torch.equal(value.double(), before[name]) for name, value in teacher.state_dict().items()]
    assert sum(moved) > len(moved) / 2


def test_the_teacher_never_trains():
    model = make(encoder={"dropout": 0.5}).train()
    assert model.objective.training and model.objective.decoder.training
    assert not any(module.training for module in model.objective.teacher.modules())
    waveforms, lengths, seeds = audio()
    variances = [model(waveforms, lengths, seeds)[1] for _ in range(2)]
    assert variances[0]["target_variance"] == variances[1]["target_variance"]
    assert variances[0]["prediction_variance"] != variances[1]["prediction_variance"]
    model(waveforms, lengths, seeds)[0].backward()
    grads = {name: p.grad for name, p in model.named_parameters()}
    teacher = {name for name in grads if name.startswith("objective.teacher.")}
    assert teacher and all(grads[name] is None for name in teacher)
    assert all(grads[name] is not None for name in grads.keys() - teacher)


class Lazy:
    """Layers that are made when they are asked for, one at a time."""

    def __init__(self, layers):
        self.layers, self.asked = layers, []

    def __len__(self):
        return len(self.layers)

    def __getitem__(self, index):
        self.asked.append(index)
        return self.layers[index]


def test_only_the_layers_that_are_wanted_are_asked_for(monkeypatch):
    model = make(encoder={"num_layers": 3})
    encode, made = model.objective.teacher.encode, []

    def lazily(*arguments):
        output = encode(*arguments)
        made.append(Lazy(output.layers))
        return output._replace(layers=made[-1])

    expected = model(*audio())[0]
    monkeypatch.setattr(model.objective.teacher, "encode", lazily)
    assert model(*audio())[0] == expected
    assert made[0].asked == [2, 3]


def test_nothing_depends_on_values_that_a_gpu_would_have_to_tell():
    model = make().to("meta")
    lengths, seeds = (tensor.to("meta") for tensor in audio()[1:])
    mask = model.objective.mask(lengths // 320, 50, seeds)
    frames, latents = torch.empty(6, 50, 32, device="meta"), torch.empty(3, 50, 32, device="meta")
    output = EncoderOutput(frames, (lengths // 320).repeat_interleave(2), [], latents)
    found = model.objective.loss(output, (None, lengths // 320), None, mask, seeds)
    assert mask.shape == (6, 50) and found[0].shape == found[2].shape == ()
    model.objective.after_update(model.speech)


def test_normalisation_and_variance_of_single_frames():
    x = torch.randn(2, 3, 4)
    valid = torch.tensor([[True, False, False], [False, False, False]])
    assert not instance_norm(x, valid).any()
    assert variance(x[:, None], valid[:, None]) == 0


def test_it_learns_without_a_collapse(tmp_path):
    """The loss falls well below what a constant gets, and target and prediction go on to vary."""
    raw = {
        "speech": {"encoder": SIZES},
        "objective": SMALL
        | {
            "name": "data2vec",
            "decay": 0.98,
            "final_decay": 0.999,
            "decay_updates": 100,
            "mask": {"prob": 0.3, "inverse": True},
        },
    }
    task = SslTask(build(SslConfig, raw, "test"), tmp_path, 0)
    torch.manual_seed(0)
    model = task.build_model().train()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=6e-3)
    batch = task.collate(synthetic_cuts(8), random.Random(0))
    rows = []
    for update in range(100):
        task.before_update(model, update)
        batch.seeds = torch.arange(8) + 8 * update
        loss, stats, weight = task.loss(model, batch)
        optimizer.zero_grad()
        (loss / weight).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        task.after_update(model)
        rows.append(torch.stack([loss, *stats.values()]).detach() / weight)
    first, last = rows[0], torch.stack(rows[-10:]).mean(0)
    assert first[0] > first[1]
    assert last[0] < 0.5 * last[1], "no better than a constant"
    assert last[1] > 0.3 and last[2] > 0.5 * last[1], "a collapse"


def test_a_saved_model_has_its_teacher(tmp_path):
    raw = {"speech": {"encoder": SIZES}, "objective": SMALL | {"name": "data2vec"}}
    task = SslTask(build(SslConfig, raw, "test"), tmp_path, 0)
    torch.manual_seed(0)
    model = disturbed(task.build_model())
    save_model(tmp_path / "model", model, task.config)
    loaded = load_model(tmp_path / "model")
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    assert not any(p.requires_grad for p in loaded.objective.teacher.parameters())
    # A run that goes on from it has a teacher that begins as the student.
    other = SslTask(build(SslConfig, raw | {"init": {"model": str(tmp_path / "model")}}, "test"), tmp_path, 0)
    begun = other.build_model()
    other.initialize(begun, lambda text: None)
    tensors, _ = checkpoint.load(tmp_path / "model" / "model.safetensors")
    for name, value in begun.objective.teacher.state_dict().items():
        assert torch.equal(value, tensors[f"speech.encoder.{name}"])


def test_settings_that_do_not_fit_the_encoder():
    with pytest.raises(
        UserError, match="objective.top_layers: found 3, expected at most 2, the encoder's layers"
    ):
        make(top_layers=3)
    with pytest.raises(UserError, match="objective.decoder_groups: found 3, expected a divisor of 32"):
        make(decoder_dim=9, decoder_groups=3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"masks": 0}, "masks must be at least 1"),
        ({"mask": MaskConfig(prob=0.0)}, "mask.prob must be positive"),
        ({"unmasked_weight": -1.0}, "unmasked_weight must not be negative"),
        ({"decoder_kernel": 4}, "decoder_kernel must be odd"),
        ({"decoder_dim": 10, "decoder_groups": 4}, "a multiple of decoder_groups"),
        ({"decoder_dropout": 1.0}, r"decoder_dropout must be in \[0, 1\)"),
        ({"decay": 1.1}, "decay <= final_decay <= 1"),
        ({"decay": 0.9999999}, "decay <= final_decay <= 1"),
        ({"decay_updates": 0}, "decay_updates >= 1"),
    ],
)
def test_impossible_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        Data2vecConfig(**settings)
