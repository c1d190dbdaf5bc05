"""Which kernels a run may use."""

import os

import pytest
import torch

from toolkit.train.arithmetic import set_arithmetic
from toolkit.train.config import TrainConfig

pytestmark = pytest.mark.usefixtures("process_settings", "attention_settings")
KINDS = ("flash", "mem_efficient", "cudnn")


def fused_attention():
    return [getattr(torch.backends.cuda, f"{kind}_sdp_enabled")() for kind in KINDS]


@pytest.fixture
def attention_settings(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = fused_attention()
    yield
    for kind, enabled in zip(KINDS, before, strict=True):
        getattr(torch.backends.cuda, f"enable_{kind}_sdp")(enabled)


@pytest.mark.parametrize("deterministic", [False, True])
def test_the_cpu_always_repeats_exactly(deterministic):
    before = fused_attention()
    set_arithmetic(TrainConfig(deterministic=deterministic, threads=1), torch.device("cpu"))
    assert (
        torch.are_deterministic_algorithms_enabled() and torch.is_deterministic_algorithms_warn_only_enabled()
    )
    assert torch.get_num_threads() == 1
    assert fused_attention() == before and "CUBLAS_WORKSPACE_CONFIG" not in os.environ


def test_a_gpu_repeats_exactly_only_if_asked_to():
    before = fused_attention()
    set_arithmetic(TrainConfig(), torch.device("cuda"))
    assert not torch.are_deterministic_algorithms_enabled()
    assert fused_attention() == before and "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    set_arithmetic(TrainConfig(deterministic=True), torch.device("cuda"))
    assert (
        torch.are_deterministic_algorithms_enabled() and torch.is_deterministic_algorithms_warn_only_enabled()
    )
    assert fused_attention() == [False] * 3 and os.environ.pop("CUBLAS_WORKSPACE_CONFIG") == ":4096:8"
