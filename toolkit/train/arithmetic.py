"""How a process computes: compiled or not, on how many threads, and whether the same run gives the same bits again."""

import os
from collections.abc import Callable

import torch
from torch import nn

from toolkit.train.config import TrainConfig


def set_arithmetic(config: TrainConfig, device: torch.device) -> None:
    """Sets threads and the choice of kernels for the whole process; to be called before anything is computed.

    On the CPU everything repeats exactly. On a GPU that costs speed and has to be asked for; what PyTorch has no
    deterministic kernel for, such as the gradient of CTC, then gives a warning and not an error.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    on_gpu = device.type == "cuda"
    torch.use_deterministic_algorithms(config.deterministic or not on_gpu, warn_only=True)
    # No result here depends on memory that was never written, and filling it takes time.
    torch.utils.deterministic.fill_uninitialized_memory = False
    if on_gpu and config.deterministic:
        # cuBLAS reads this when it starts; with workspaces of its own choice its sums may differ between runs.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        # With warn_only, PyTorch lets the gradients of fused attention add up in any order; plain attention is exact.
        torch.backends.cuda.enable_flash_sdp(False)
        torch.backends.cuda.enable_mem_efficient_sdp(False)
        torch.backends.cuda.enable_cudnn_sdp(False)


def compiled(model: nn.Module, backend: str | Callable = "inductor") -> nn.Module:
    """A model as one program for batches of all sizes, as far as its parts can be compiled; the weights are shared.

    Args:
        model: what is to be compiled.
        backend: what makes code of the program.
    """
    # Numbers of the configuration are constants and not inputs of the program.
    torch._dynamo.config.specialize_float = True
    # Would cut the program into pieces between which gradients are sent, but gives up on functions that have a
    # backward of their own.
    torch._dynamo.config.optimize_ddp = False
    # Channels stand last already where that is faster; and with it PyTorch 2.11 fails on any number of frames.
    torch._inductor.config.layout_optimization = False
    return torch.compile(model, dynamic=True, backend=backend)
