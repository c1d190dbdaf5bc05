"""Zipformer: shapes, hidden frames, what changes with the clock and by chance, and that all of it learns."""

from copy import deepcopy

import pytest
import torch

from tests.models.small_zipformer import FEATURES, make_config, make_encoder
from toolkit.config import build, to_dict
from toolkit.errors import UserError
from toolkit.models.base import SpeechConfig, SpeechEncoder, SpeechModel
from toolkit.models.zipformer.config import ZipformerConfig
from toolkit.models.zipformer.encoder import ZipformerEncoder
from toolkit.nn.scheduled import Clocked

EMBEDS = list(FEATURES)


def features(embed, lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(lengths), max(lengths), FEATURES[embed], generator=generator), torch.tensor(
        lengths
    )


def run(encoder, x, lengths, mask=None):
    return encoder.encode(*encoder.embed(x, lengths), mask)


@pytest.mark.parametrize("settings", [{}, {"causal": True}, {"causal": True, "chunk_size": -1}])
@pytest.mark.parametrize("embed", EMBEDS)
def test_alone_and_in_a_batch(embed, settings):
    """Lengths around every group of frames that downsampling takes together."""
    encoder = make_encoder(embed=embed, output_downsampling=2, **settings)
    x, lengths = features(embed, [90, 89, 57, 33, 32, 31, 17, 16, 15, 9, 8, 2])
    with torch.no_grad():
        latents, frames = encoder.embed(x, lengths)
        mask = torch.rand(frames.shape[0], latents.shape[1]) < 0.3
        together = encoder.encode(latents, frames, mask)
        assert latents.shape[1] == encoder.latent_lengths(90)
        assert together.frames.shape[1] == encoder.output_lengths(90) == together.layers[0].shape[1]
        assert torch.equal(frames, encoder.latent_lengths(lengths))
        assert torch.equal(together.lengths, encoder.output_lengths(lengths))
        for row, length in enumerate(lengths.tolist()):
            own = encoder.embed(x[row : row + 1, :length], lengths[row : row + 1])
            alone = encoder.encode(*own, mask[row : row + 1, : own[0].shape[1]])
            count = int(together.lengths[row])
            assert alone.frames.shape[1] == count
            torch.testing.assert_close(together.frames[row, :count], alone.frames[0], atol=1e-4, rtol=1e-4)
            for mine, theirs in zip(together.layers, alone.layers, strict=True):
                torch.testing.assert_close(mine[row, :count], theirs[0], atol=1e-4, rtol=1e-4)


def test_layers_are_alike_and_made_when_asked_for():
    encoder = make_encoder(embed="none", output_downsampling=1)
    x, lengths = features("none", [50, 30])
    calls = []
    make_alike = encoder.at_output_rate
    encoder.at_output_rate = lambda *arguments: calls.append(1) or make_alike(*arguments)
    with torch.no_grad():
        output = run(encoder, x, lengths)
    assert len(calls) == 1
    assert len(output.layers) == encoder.num_layers + 1 == 4
    assert {tuple(layer.shape) for layer in output.layers} == {(2, 50, 24)}
    assert len(output.layers[1:]) == 3 and torch.equal(output.layers[1:][0], output.layers[1])
    valid = torch.arange(50) < lengths[:, None]
    torch.testing.assert_close(output.layers[0][valid][:, :16], x[valid])
    assert not output.layers[0][..., 16:].any() and not output.layers[3][..., 20:].any()
    # The last stack's channels, then what it lacks from the one before.
    assert torch.equal(output.frames[..., :20], output.layers[3][..., :20])
    assert torch.equal(output.frames[..., 20:], output.layers[2][..., 20:])


@pytest.mark.parametrize("embed", EMBEDS)
def test_masked_frames_are_hidden_but_others_see_the_mask(embed):
    encoder = make_encoder(embed=embed, output_downsampling=1)
    x, lengths = features(embed, [60])
    latents, frames = encoder.embed(x, lengths)
    mask = torch.zeros(1, latents.shape[1], dtype=torch.bool)
    mask[0, 3:6] = True
    plain, hidden = encoder.encode(latents, frames), encoder.encode(latents, frames, mask)
    assert torch.equal(hidden.layers[0][0, 3:6, :16], encoder.mask_embedding.expand(3, -1))
    assert torch.equal(hidden.layers[0][0, 6:], plain.layers[0][0, 6:])
    assert not torch.allclose(hidden.frames[0, 6:], plain.frames[0, 6:])


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("embed", EMBEDS)
def test_every_parameter_learns_at_any_time(embed, causal):
    encoder = make_encoder(embed=embed, causal=causal).train()
    x, lengths = features(embed, [80, 45, 80, 60])
    total = {name: 0.0 for name, _ in encoder.named_parameters()}
    for seed in range(8):
        torch.manual_seed(seed)
        latents, frames = encoder.embed(x, lengths)
        mask = torch.rand(latents.shape[:2]) < 0.3
        encoder.zero_grad(set_to_none=True)
        encoder.encode(latents, frames, mask).frames.square().sum().backward()
        for name, parameter in encoder.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
            total[name] += float(parameter.grad.abs().sum())
    assert all(size > 0 for size in total.values()), [name for name in total if not total[name]]


def test_only_the_mask_embedding_is_unused_without_a_mask():
    encoder = make_encoder().train()
    run(encoder, *features("conv2d", [60, 40])).frames.sum().backward()
    unused = [name for name, parameter in encoder.named_parameters() if parameter.grad is None]
    assert unused == ["mask_embedding"]


def test_a_seeded_step_can_be_repeated():
    encoder = make_encoder(causal=True).train()
    x, lengths = features("conv2d", [90, 60])

    def step(seed):
        torch.manual_seed(seed)
        encoder.zero_grad()
        frames = run(encoder, x, lengths).frames
        frames.sum().backward()
        return frames, encoder.stacks[0].layers[0].norm.bias.grad.clone()

    first, again, other = step(1), step(1), step(2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


def test_chance_fades_with_the_clock():
    """Of a layer's two clocks of skipping, dropout stays; the encoder must differ between steps all the same."""
    encoder = make_encoder(embed="none", dropout=(0.3, 0.0), unmasked_dims=[16, 24, 20]).train()
    for stack in encoder.stacks:
        stack.position_dropout.p = 0.0
    x, lengths = features("none", [64] * 8)

    def spread(update):
        for module in encoder.modules():
            if isinstance(module, Clocked):
                module.update = update
        torch.manual_seed(0)
        with torch.no_grad():
            return float((run(encoder, x, lengths).frames - run(encoder, x, lengths).frames).abs().mean())

    early, late = spread(0), spread(100_000)
    assert late < 0.7 * early


def test_the_clock_reaches_every_part():
    class Model(SpeechModel):
        def __init__(self, speech):
            super().__init__()
            self.speech = speech

    speech = SpeechEncoder(SpeechConfig(encoder=make_config(updates_scale=2.5)))
    Model(speech).set_update(4)
    clocked = [module for module in speech.modules() if isinstance(module, Clocked)]
    assert len(clocked) > 50
    assert {module.update * module.updates_scale for module in clocked} == {10.0}


def test_causal_frames_do_not_see_what_comes_later():
    encoder = make_encoder(embed="none", causal=True, output_downsampling=1)
    x, lengths = features("none", [40])
    changed = torch.cat([x[:, :24], torch.randn(1, 16, 16)], dim=1)
    with torch.no_grad():
        first, second = (run(encoder, y, lengths).frames[0] for y in (x, changed))
    torch.testing.assert_close(first[:24], second[:24])
    assert not torch.allclose(first[24:], second[24:])


def test_a_copy_and_its_state():
    encoder = make_encoder(causal=True)
    other = ZipformerEncoder(make_config(causal=True), FEATURES["conv2d"]).eval()
    state = encoder.state_dict()
    assert all(isinstance(tensor, torch.Tensor) for tensor in state.values())
    other.load_state_dict(state)
    x, lengths = features("conv2d", [60, 40])
    with torch.no_grad():
        frames = [run(model, x, lengths).frames for model in (encoder, other, deepcopy(encoder))]
    assert torch.equal(frames[0], frames[1]) and torch.equal(frames[0], frames[2])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_model_of_another_precision(dtype):
    encoder = make_encoder(causal=True)
    x, lengths = features("conv2d", [120, 70])
    with torch.no_grad():
        expected = run(encoder, x, lengths).frames
        encoder.to(dtype)
        found = run(encoder, x.to(dtype), lengths).frames
    assert found.dtype == dtype
    error = (found.float() - expected)[:, : 70 // 4 - 2].abs().mean()
    assert error < 0.05 * expected.abs().mean()
    run(encoder.train(), x.to(dtype), lengths).frames.square().mean().backward()
    assert all(p.grad.isfinite().all() for name, p in encoder.named_parameters() if name != "mask_embedding")


@pytest.mark.parametrize("causal", [False, True])
def test_half_precision(causal):
    encoder = make_encoder(causal=causal)
    x, lengths = features("conv2d", [120, 70])
    with torch.no_grad():
        expected = run(encoder, x, lengths)
        with torch.autocast("cpu", torch.bfloat16):
            found = run(encoder, x, lengths)
    valid = torch.arange(expected.frames.shape[1]) < expected.lengths[:, None]
    error = (found.frames.float() - expected.frames)[valid].abs().mean()
    assert error < 0.05 * expected.frames[valid].abs().mean()
    encoder.train()
    with torch.autocast("cpu", torch.bfloat16):
        run(encoder, x, lengths).frames.float().square().mean().backward()
    assert all(p.grad.isfinite().all() for name, p in encoder.named_parameters() if name != "mask_embedding")


def test_it_learns():
    """Which of four tones is heard, frame by frame, from features."""
    torch.manual_seed(0)
    encoder = make_encoder(
        embed="none", output_downsampling=1, dropout=(0.0, 0.0), updates_scale=1000.0
    ).train()
    head = torch.nn.Linear(encoder.dim, 4)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=3e-3)
    tones, losses = torch.randn(4, 16), []
    for update in range(60):
        for module in encoder.modules():
            if isinstance(module, Clocked):
                module.update = update
        classes = torch.randint(4, (4, 8)).repeat_interleave(6, dim=1)
        x = tones[classes] + torch.randn(4, 48, 16)
        logits = head(run(encoder, x, torch.full((4,), 48)).frames)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), classes.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[:5]) / 5 > 1.2 and sum(losses[-10:]) / 10 < 0.4


@pytest.mark.slow
@pytest.mark.parametrize("causal", [False, True])
def test_compiled_it_learns_the_same(causal):
    sizes = {
        "downsampling": [1, 2],
        "num_layers": [1],
        "dims": [16, 24],
        "unmasked_dims": [16],
        "kernel_sizes": [5],
    }
    encoder = make_encoder(causal=causal, chunk_sizes=[8], **sizes).train()
    x, lengths = features("conv2d", [80, 60])

    def step(forward):
        torch.manual_seed(0)
        encoder.zero_grad()
        forward(encoder, x, lengths).frames.sum().backward()
        return {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}

    expected, found = step(run), step(torch.compile(run, backend="aot_eager"))
    assert expected.keys() == found.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("embed", EMBEDS)
def test_padding_may_hold_what_is_no_number(embed):
    encoder = make_encoder(embed=embed)
    x, lengths = features(embed, [60, 37])
    spoilt = x.clone()
    spoilt[1, 37:] = torch.nan
    with torch.no_grad():
        expected, found = run(encoder, x, lengths), run(encoder, spoilt, lengths)
    for row, frames in enumerate(expected.lengths.tolist()):
        torch.testing.assert_close(found.frames[row, :frames], expected.frames[row, :frames])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dims": [16, 24]}, "dims must hold one number, or one for each of 3 stacks"),
        ({"num_layers": [0]}, "num_layers must be at least 1"),
        ({"feed_forward_dims": [1]}, "feed_forward_dims must be at least 2"),
        ({"dims": [1], "unmasked_dims": [1]}, "dims must be at least 2"),
        ({"kernel_sizes": [4]}, "kernel_sizes must be odd"),
        ({"pos_dim": 7}, "pos_dim must be even"),
        ({"unmasked_dims": [18]}, "dims must be at least unmasked_dims, got 16 and 18"),
        ({"output_downsampling": 0}, "output_downsampling must be at least 1"),
        ({"dropout": (0.1, 1.0)}, "dropout and input_dropout must be in"),
        ({"dropout": (0.1,)}, "dropout must be two numbers"),
        ({"updates_scale": 0.0}, "updates_scale must be over 0"),
        (
            {"causal": True, "chunk_size": 12},
            "chunk_size and chunk_sizes must be -1 or multiples of 8 frames",
        ),
        ({"causal": True, "chunk_sizes": []}, "chunk_sizes and left_contexts must not be empty"),
        ({"causal": True, "left_context": 0}, "left_context and left_contexts must be -1 or at least 1"),
    ],
)
def test_sizes_that_do_not_fit(settings, message):
    with pytest.raises(ValueError, match=message):
        make_config(**settings)


def test_features_of_another_width():
    with pytest.raises(UserError, match="embed: none needs features of width 16 as dims says, got 20"):
        ZipformerEncoder(make_config(embed="none"), 20)


def test_the_configuration_is_plain():
    config = make_config()
    assert build(ZipformerConfig, to_dict(config), "saved") == config
