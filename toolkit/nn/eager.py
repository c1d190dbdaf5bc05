"""Where code may take another way than on a GPU."""

import torch
from torch import Tensor


def eager_on_cpu(x: Tensor) -> bool:
    """Whether what a tensor holds may decide what is done next.

    A GPU would have to be waited for, and compiled code would be cut in two. So compiled code, and what is
    exported, takes the way of GPUs on every device.
    """
    return x.device.type == "cpu" and not recorded()


def recorded() -> bool:
    """Whether operations are recorded for inputs of any shape, by PyTorch's compiler or an exporter."""
    return torch.compiler.is_compiling() or exporting()


def exporting() -> bool:
    """Whether the operations are recorded for other programs, which have few of PyTorch's and any shape of input."""
    return torch.jit.is_tracing()
