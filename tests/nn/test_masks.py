"""Masks of valid frames."""

import torch

from toolkit.nn.masks import valid_mask


def test_valid_mask():
    found = valid_mask(torch.tensor([0, 2, 5, 9]), 5)
    assert found.dtype == torch.bool
    assert found.int().tolist() == [[0, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1]]
    assert valid_mask(torch.tensor([3]), 0).shape == (1, 0)
