"""Rotary attention against rotation matrices and an explicit softmax in double precision."""

import math

import pytest
import torch
from torch import nn

from toolkit.nn.attention import RotaryAttention, rotary_table, rotate
from toolkit.nn.masks import valid_mask


def rotation_matrix(position, width):
    """RoFormer, equation 15, with the pairs (i, i + C/2)."""
    matrix = torch.zeros(width, width, dtype=torch.float64)
    for i in range(width // 2):
        angle = position * 10000 ** (-2 * i / width)
        j = i + width // 2
        matrix[i, i] = matrix[j, j] = math.cos(angle)
        matrix[i, j], matrix[j, i] = -math.sin(angle), math.sin(angle)
    return matrix


def reference(module, x, length):
    """Attention of one utterance (T, D), frame by frame."""
    x = x[:length].double()
    dim, heads = x.shape[1], module.num_heads
    width = dim // heads
    qkv = x @ module.qkv.weight.double().T + module.qkv.bias.double()
    turned = [rotation_matrix(position, width) for position in range(length)]
    outputs = []
    for head in range(heads):
        query, key, value = (
            qkv[:, part * dim + head * width : part * dim + (head + 1) * width] for part in range(3)
        )
        rows = []
        for i in range(length):
            scores = torch.stack(
                [(turned[i] @ query[i]) @ (turned[j] @ key[j]) / math.sqrt(width) for j in range(length)]
            )
            weights = scores.exp() / scores.exp().sum()
            rows.append((weights[:, None] * value).sum(0))
        outputs.append(torch.stack(rows))
    return torch.cat(outputs, dim=1) @ module.out.weight.double().T + module.out.bias.double()


def test_equals_the_definition_also_inside_a_padded_batch():
    torch.manual_seed(0)
    module = RotaryAttention(dim=24, num_heads=3, dropout=0.0)
    lengths = torch.tensor([7, 4, 1])
    x = torch.randn(3, 7, 24)
    found = module(x, rotary_table(7, 8, x.device), valid_mask(lengths, 7))
    for row, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(
            found[row, :length].double(), reference(module, x[row], length), atol=1e-6, rtol=1e-5
        )


def test_without_a_mask_all_frames_are_attended_to():
    torch.manual_seed(0)
    module = RotaryAttention(dim=8, num_heads=2, dropout=0.0)
    x, table = torch.randn(2, 5, 8), rotary_table(5, 4, torch.device("cpu"))
    everything = torch.ones(2, 5, dtype=torch.bool)
    torch.testing.assert_close(module(x, table, None), module(x, table, everything))


def test_rotated_products_depend_on_the_distance_alone():
    torch.manual_seed(0)
    width, frames = 16, 40
    table = rotary_table(frames, width, torch.device("cpu"))
    query, key = torch.randn(width), torch.randn(width)
    rows = [rotate(v.expand(1, 1, frames, width), table)[0, 0] for v in (query, key)]
    products = rows[0] @ rows[1].T
    for distance in range(-10, 11):
        diagonal = products.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-4, rtol=1e-4)
    assert products[0, 0] != pytest.approx(products[0, 5])


def test_rotation_keeps_lengths_and_types():
    x = torch.randn(2, 3, 50, 8, dtype=torch.bfloat16)
    turned = rotate(x, rotary_table(50, 8, x.device))
    assert turned.dtype == torch.bfloat16
    torch.testing.assert_close(turned.float().norm(dim=-1), x.float().norm(dim=-1), rtol=0.02, atol=0.02)
    assert torch.equal(turned[:, :, 0], x[:, :, 0])


def test_dropout_only_in_training():
    torch.manual_seed(0)
    module = RotaryAttention(dim=8, num_heads=1, dropout=0.5)
    x, table = torch.randn(1, 6, 8), rotary_table(6, 8, torch.device("cpu"))
    assert not torch.equal(module(x, table, None), module(x, table, None))
    module.eval()
    assert torch.equal(module(x, table, None), module(x, table, None))


def test_odd_heads_are_refused():
    with pytest.raises(ValueError, match=r"dim must be a multiple of 2 \* num_heads, got 12 and 4"):
        RotaryAttention(12, 4, 0.0)


def test_gradients():
    torch.manual_seed(0)
    module = RotaryAttention(4, 1, 0.0).double()
    table = tuple(part.double() for part in rotary_table(3, 4, torch.device("cpu")))
    x = torch.randn(1, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: module(x, table, None), x)
    assert isinstance(module.qkv, nn.Linear)
