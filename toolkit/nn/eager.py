"""Where code may take another way than on a GPU."""

import torch
from torch import Tensor


def eager_on_cpu(x: Tensor) -> bool:
    """Whether what a tensor holds may decide what is done next.

    A GPU would have to be waited for, and compiled code would be cut in two. So compiled code takes the way of GPUs on
    every device.
    """
    return x.device.type == "cpu" and not torch.compiler.is_compiling()
