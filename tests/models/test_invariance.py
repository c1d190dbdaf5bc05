"""For every encoder on every front end: what comes of an utterance does not depend on what shares its batch."""

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.config import build
from toolkit.models.base import SHORTEST_SECONDS, SpeechConfig, SpeechEncoder
from toolkit.models.registry import ENCODERS, FRONTENDS
from toolkit.nn import attention, self_attention

SHORTEST = int(16000 * SHORTEST_SECONDS)
LONGEST = 10000
CLOSE = 1e-4

FRONT = {
    "fbank": [{"num_mel_bins": 16}],
    "waveform": [{"dims": [6] * 7, "norm": norm, "bias": norm == "layer"} for norm in ("group", "layer")],
}
LAYERED = {"dim": 8, "num_layers": 2, "num_heads": 2, "subsampling_channels": 2, "kernel_size": 5}
STACKED = {
    "downsampling": [1, 2, 4],
    "num_layers": [1],
    "dims": [16, 24, 16],
    "unmasked_dims": [12],
    "feed_forward_dims": [16],
    "num_heads": [2],
    "kernel_sizes": [5],
    "query_head_dims": [4],
    "value_head_dims": [4],
    "pos_head_dims": [2],
    "pos_dim": 8,
}
TRANSFORMER = {
    "dim": 8,
    "num_layers": 2,
    "num_heads": 2,
    "feed_forward_dim": 12,
    "position_kernel": 8,
    "position_groups": 2,
}
WAVLM = TRANSFORMER | {"bias_buckets": 8, "bias_distance": 20, "norm_first": True}
DATA2VEC = TRANSFORMER | {"positions": "conv_stack", "position_layers": 2, "position_kernel": 5}
CAUSAL = {"causal": True, "chunk_size": 8, "left_context": 16, "chunk_sizes": [8], "left_contexts": [16]}


def layered(**changes):
    """Settings of an encoder of equal layers, for each front end: convolutions on slow features, none on fast ones."""
    return {
        "fbank": [LAYERED | changes | {"subsampling": factor} for factor in (2, 4)],
        "waveform": [LAYERED | changes | {"subsampling": 1}],
    }


# Encoder -> front end -> the small settings in which it is tried.
SMALL = {
    "conformer": layered(feed_forward_dim=12),
    "branchformer": layered(gating_dim=12),
    "e_branchformer": layered(gating_dim=12, merge_kernel_size=3, feed_forward_dim=12),
    "transformer": {"fbank": [WAVLM, DATA2VEC], "waveform": [TRANSFORMER]},
    "zipformer": {
        "fbank": [STACKED, STACKED | CAUSAL],
        "waveform": [STACKED | {"embed": "linear", "output_downsampling": 1}],
    },
}
CASES = [
    ({"name": front, **frontend_settings}, {"name": encoder, **encoder_settings})
    for encoder, fronts in SMALL.items()
    for front, several in fronts.items()
    for encoder_settings in several
    for frontend_settings in FRONT[front]
]


def test_every_encoder_is_tried_on_every_front_end():
    """An encoder that cannot stand on a front end has an empty list for it."""
    assert not set(FRONTENDS) - set(FRONT), "front ends without small settings in FRONT"
    assert not set(ENCODERS) - set(SMALL), "encoders without small settings in SMALL"
    for encoder, fronts in SMALL.items():
        assert set(fronts) == set(FRONTENDS), f"SMALL[{encoder!r}]: expected settings for every front end"
        assert any(fronts.values()), f"SMALL[{encoder!r}]: stands on no front end"


@cache
def make(case):
    frontend, encoder = CASES[case]
    torch.manual_seed(0)
    speech = SpeechEncoder(build(SpeechConfig, {"frontend": frontend, "encoder": encoder}, "small"))
    with torch.no_grad():
        # Off the initial values, so that no zero or one hides a mistake.
        for parameter in speech.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return speech.eval()


def padded(lengths, extra, seed):
    """A batch whose padding is as loud as its utterances, and the utterances."""
    generator = torch.Generator().manual_seed(seed)
    rows = 0.3 * torch.randn(len(lengths), max(lengths) + extra, generator=generator)
    rows += 0.2 * torch.randn(len(lengths), 1, generator=generator)
    return (
        rows,
        torch.tensor(lengths),
        [row[:length].clone() for row, length in zip(rows, lengths, strict=True)],
    )


def masks(speech, lengths, size, seed):
    """Hidden frames: of the batch, padding included, and of each utterance."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(len(lengths), speech.latent_lengths(size), generator=generator) < 0.3
    return mask, [mask[row : row + 1, : speech.latent_lengths(length)] for row, length in enumerate(lengths)]


def identity(value):
    frontend, encoder = value
    shown = [encoder["name"], frontend["name"], frontend.get("norm", ""), "causal" * ("causal" in encoder)]
    return "-".join([*filter(None, shown), str(encoder.get("subsampling", ""))]).strip("-")


each_case = pytest.mark.parametrize("case", range(len(CASES)), ids=map(identity, CASES))
batches = given(
    lengths=st.lists(st.integers(SHORTEST, LONGEST), min_size=1, max_size=4),
    extra=st.integers(0, 3000),
    masked=st.booleans(),
    seed=st.integers(0, 2**31),
)


@each_case
@settings(max_examples=15)
@batches
def test_outputs_are_an_utterances_own(case, lengths, extra, masked, seed):
    speech = make(case)
    rows, sizes, waveforms = padded(lengths, extra, seed)
    mask, own_masks = masks(speech, lengths, rows.shape[1], seed)
    with torch.no_grad():
        together = speech(rows, sizes, mask if masked else None)
        frames = speech.output_lengths(rows.shape[1])
        assert together.frames.shape == (len(lengths), frames, speech.dim)
        assert together.lengths.dtype == torch.int64
        assert together.lengths.tolist() == speech.output_lengths(sizes).tolist()
        assert len(together.layers) == speech.num_layers + 1
        for row, waveform in enumerate(waveforms):
            alone = speech(waveform[None], sizes[row : row + 1], own_masks[row] if masked else None)
            count = speech.output_lengths(len(waveform))
            assert type(count) is int
            assert count > 0 and alone.lengths.tolist() == [count] == [int(together.lengths[row])]
            latents = speech.latent_lengths(len(waveform))
            assert_close(together.latents[row, :latents], alone.latents[0, :latents])
            for mine, shared in zip(
                [alone.frames, *alone.layers], [together.frames, *together.layers], strict=True
            ):
                assert mine.shape[1] >= count
                assert_close(shared[row, :count], mine[0, :count])


@each_case
@settings(max_examples=4)
@batches
def test_gradients_are_an_utterances_own(case, lengths, extra, masked, seed):
    speech = make(case)
    rows, sizes, waveforms = padded(lengths, extra, seed)
    mask, own_masks = masks(speech, lengths, rows.shape[1], seed)
    count = speech.output_lengths(len(waveforms[0]))
    weights = torch.randn(count, speech.dim, generator=torch.Generator().manual_seed(seed))

    def gradients(output):
        """Of a loss of the first utterance alone."""
        named = dict(speech.named_parameters())
        trained = {name: p for name, p in named.items() if p.requires_grad}
        loss = (output.frames[0, :count] * weights).sum() / count
        return dict(zip(trained, torch.autograd.grad(loss, trained.values(), allow_unused=True), strict=True))

    shared = gradients(speech(rows, sizes, mask if masked else None))
    own = gradients(speech(waveforms[0][None], sizes[:1], own_masks[0] if masked else None))
    for name, gradient in own.items():
        assert (gradient is None) == (shared[name] is None), name
        if gradient is not None:
            assert_close(shared[name], gradient, name)


@each_case
@pytest.mark.parametrize("compiling", [False, True])
def test_without_padding_nothing_changes_if_that_is_said(case, compiling, monkeypatch):
    """In compiled code and on a GPU, where nobody looks into lengths, attention then gets no mask."""
    speech = make(case)
    given, modules = [], (attention, self_attention)
    for module in modules:
        plain = module.scaled_dot_product_attention

        def spy(*arguments, attn_mask, plain=plain, **settings):
            given.append(attn_mask)
            return plain(*arguments, attn_mask=attn_mask, **settings)

        monkeypatch.setattr(module, "scaled_dot_product_attention", spy)
    monkeypatch.setattr("torch.compiler.is_compiling", lambda: compiling)
    rows, sizes, _ = padded([5000, 5000], 0, 0)
    mask, _ = masks(speech, [5000, 5000], 5000, 0)
    with torch.no_grad():
        expected = speech(rows, sizes, mask)
        known = len(given)
        found = speech(rows, sizes, mask, padded=False)
        pairs = zip([found.frames, *found.layers], [expected.frames, *expected.layers], strict=True)
        for one, other in pairs:
            assert_close(one, other)
    encoder = speech.config.encoder
    if encoder.name != "zipformer" and not getattr(encoder, "bias_buckets", 0):
        assert len(given) == 2 * known > 0
        assert all(one is None for one in given[known:])
        if compiling:
            assert all(one is not None for one in given[:known])


def assert_close(found, expected, name=""):
    """To `CLOSE`, in units of the largest value where that is over one: rounding grows with it."""
    assert expected.isfinite().all(), name
    error = float((found - expected).abs().max()) / max(1.0, float(expected.abs().max()))
    assert error < CLOSE, f"{name}: differs by {error:.1e}"
