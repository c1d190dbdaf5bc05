"""Chunk by chunk, a causal Zipformer gives what it gives for the whole utterance."""

import pytest
import torch

from tests.models.small_zipformer import FEATURES, make_encoder
from toolkit.errors import UserError
from toolkit.models.zipformer.streaming import ZipformerStream


def run(encoder, features, lengths, **sizes):
    stream = ZipformerStream(encoder, **sizes)
    state = stream.initial_state(len(features))
    found = [[] for _ in features]
    for window, rest in stream.windows(features, lengths):
        frames, counts, state = stream(window, rest, state)
        for row, pieces in enumerate(found):
            pieces.append(frames[row, : counts[row]])
    return [torch.cat(pieces) for pieces in found], state


@pytest.mark.parametrize(("chunk_size", "left_context"), [(8, 16), (16, 16), (8, 64)])
@pytest.mark.parametrize("embed", FEATURES)
def test_chunk_by_chunk_equals_the_whole(embed, chunk_size, left_context):
    encoder = make_encoder(embed=embed, causal=True, chunk_size=chunk_size, left_context=left_context)
    lengths = torch.tensor([171, 128, 60, 24, 9, 4])
    torch.manual_seed(1)
    features = torch.randn(len(lengths), int(lengths.max()), FEATURES[embed])
    with torch.no_grad():
        whole = encoder.encode(*encoder.embed(features, lengths))
        found, state = run(encoder, features, lengths)
    assert state.processed.tolist() == encoder.latent_lengths(lengths).tolist()
    for row, frames in enumerate(found):
        assert len(frames) == whole.lengths[row]
        torch.testing.assert_close(frames, whole.frames[row, : len(frames)], atol=1e-4, rtol=1e-4)


def test_states_have_the_shapes_that_exported_models_want():
    encoder = make_encoder(causal=True, chunk_size=8, left_context=32)
    stream = ZipformerStream(encoder)
    assert (stream.window, stream.step) == (2 * 8 + 13, 2 * 8)
    first, *_ = stream.initial_state(3).layers
    assert [tuple(tensor.shape) for tensor in first] == [
        (32, 3, 2 * 4),
        (1, 3, 32, 12),
        (32, 3, 2 * 4),
        (32, 3, 2 * 4),
        (3, 16, 2),
        (3, 16, 2),
    ]
    state = stream.initial_state(3)
    assert state.embed.shape == (3, 128, 3, 4) and state.processed.tolist() == [0, 0, 0]
    with torch.no_grad():
        *_, new = stream(torch.randn(3, 29, 20), torch.full((3,), 29), state)
    assert [x.shape for x in new.tensors()] == [x.shape for x in state.tensors()]
    assert len(state.tensors()) == 6 * 4 + 2


@pytest.mark.parametrize(
    ("settings", "sizes", "message"),
    [
        ({}, {}, "causal: found false, expected true"),
        ({"causal": True}, {"chunk_size": 6}, "chunk_size: found 6, expected a multiple of 8"),
        (
            {"causal": True},
            {"chunk_size": 8, "left_context": 12},
            "left_context: found 12, expected a multiple",
        ),
        ({"causal": True}, {"chunk_size": -1}, "chunk_size: found -1"),
    ],
)
def test_what_cannot_be_streamed_is_refused(settings, sizes, message):
    encoder = make_encoder(**settings)
    with pytest.raises(UserError, match=message):
        ZipformerStream(encoder, **sizes)
