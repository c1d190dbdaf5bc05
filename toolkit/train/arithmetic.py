"""How a process computes: on how many threads, and whether the same run gives the same bits again."""

import os

import torch

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
