"""Zipformer against the reference run on each utterance alone; weights read as from one of its checkpoints."""

import pytest
import torch

from toolkit.config import build
from toolkit.convert.icefall import read_icefall
from toolkit.models.zipformer.config import ZipformerConfig
from toolkit.models.zipformer.encoder import ZipformerEncoder
from toolkit.models.zipformer.streaming import ZipformerStream
from toolkit.nn.biasnorm import BiasNorm
from toolkit.nn.swoosh import swoosh_l, swoosh_r

CLOSE = {"atol": 1e-4, "rtol": 0}


def read(tensors, settings):
    state = {
        name: tensor for name, tensor in tensors.items() if name.startswith(("encoder.", "encoder_embed."))
    }
    converted = read_icefall(state, {"feature_dim": tensors["x"].shape[2]} | settings)
    # Vectors that nothing uses, and the weight of one output frame out of one.
    unused = (".bypass_scale", ".downsample_output.bias")
    assert all(name.endswith(unused) for name in converted.left_out)
    config = build(ZipformerConfig, converted.speech["encoder"], "converted")
    encoder = ZipformerEncoder(config, tensors["x"].shape[2]).eval()
    encoder.load_state_dict(
        {name.removeprefix("encoder."): tensor for name, tensor in converted.weights.items()}
    )
    return encoder


@pytest.mark.parametrize("name", ["zipformer2_offline", "zipformer2_causal", "zipformer2_ssl"])
def test_outputs(vectors, name):
    for tensors, settings in vectors(name):
        encoder = read(tensors, settings)
        x, lengths = tensors["x"], tensors["x_lens"]
        # What lies in the padding must not matter.
        garbage = torch.where(torch.arange(x.shape[1]) < lengths[:, None], 0.0, 3.0)
        with torch.no_grad():
            latents, latent_lengths = encoder.embed(x + garbage[:, :, None], lengths)
            together = encoder.encode(latents, latent_lengths)
            for row, length in enumerate(lengths.tolist()):
                expected = tensors[f"y_alone.{row}"]
                own_latents, own_lengths = encoder.embed(x[row : row + 1, :length], lengths[row : row + 1])
                if f"embed_alone.{row}" in tensors:
                    embedded = tensors[f"embed_alone.{row}"]
                    assert own_lengths.tolist() == [len(embedded)] == latent_lengths[row : row + 1].tolist()
                    torch.testing.assert_close(own_latents[0], embedded, **CLOSE)
                    torch.testing.assert_close(latents[row, : len(embedded)], embedded, **CLOSE)
                alone = encoder.encode(own_latents, own_lengths)
                assert alone.lengths.tolist() == [len(expected)] == together.lengths[row : row + 1].tolist()
                torch.testing.assert_close(alone.frames[0], expected, **CLOSE)
                torch.testing.assert_close(together.frames[row, : len(expected)], expected, **CLOSE)


def test_streaming(vectors):
    """Where a stream's left context is whole chunks, it gives what the reference gives for the whole utterance."""
    for tensors, settings in vectors("zipformer2_causal"):
        encoder = read(tensors, settings)
        chunk, left = encoder.config.chunk_size, encoder.config.left_context
        if chunk < 1 or left < 1 or left % chunk:
            continue
        stream = ZipformerStream(encoder)
        state = stream.initial_state(len(tensors["x"]))
        pieces = [[] for _ in tensors["x"]]
        with torch.no_grad():
            for window, rest in stream.windows(tensors["x"], tensors["x_lens"]):
                frames, counts, state = stream(window, rest, state)
                for row, found in enumerate(pieces):
                    found.append(frames[row, : counts[row]])
        for row, found in enumerate(pieces):
            torch.testing.assert_close(torch.cat(found), tensors[f"y_alone.{row}"], **CLOSE)


@pytest.mark.parametrize(("name", "function"), [("swoosh_l", swoosh_l), ("swoosh_r", swoosh_r)])
def test_swoosh(vectors, name, function):
    for tensors, _ in vectors("zipformer_ops"):
        x = tensors["x"].requires_grad_()
        y = function(x)
        torch.testing.assert_close(y, tensors[f"{name}.y"], atol=1e-5, rtol=0)
        outer = tensors[f"{name}.grad_out"]
        y.backward(outer)
        # The reference keeps the derivative, which spans about 1, in 255 steps.
        error = (x.grad - tensors[f"{name}.grad_x"]).abs()
        assert (error <= 1.02 / 255 * outer.abs() + 1e-6).all()


def test_bias_norm(vectors):
    for tensors, _ in vectors("zipformer_ops"):
        norm = BiasNorm(tensors["x"].shape[1]).eval()
        norm.load_state_dict({key: tensors[f"bias_norm.{key}"] for key in ("bias", "log_scale")})
        x = tensors["x"].detach().requires_grad_()
        y = norm(x)
        torch.testing.assert_close(y, tensors["bias_norm.y"], atol=1e-5, rtol=1e-5)
        y.backward(tensors["bias_norm.grad_out"])
        torch.testing.assert_close(x.grad, tensors["bias_norm.grad_x"], atol=1e-5, rtol=1e-5)
