"""Cross-entropy with label smoothing (Szegedy et al. 2016): the loss of attention decoders and language models.

Dimensions: B sentences, L positions, V symbols.
"""

import torch
from torch import Tensor


def smoothed_cross_entropy(
    logits: Tensor, targets: Tensor, lengths: Tensor, smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy between the logits and targets, of whose weight a share is spread over all symbols.

    Args:
        logits: (B, L, V).
        targets: (B, L) ids.
        lengths: (B,) valid positions.
        smoothing: the share of the weight that is spread evenly over the V symbols, the target among them.

    Returns:
        (B,) in float32, or float64 for float64, summed over positions.
    """
    with torch.autocast(logits.device.type, enabled=False):
        scores = logits.to(torch.promote_types(logits.dtype, torch.float32)).mT
        loss = torch.nn.functional.cross_entropy(scores, targets, reduction="none", label_smoothing=smoothing)
        valid = torch.arange(targets.shape[1], device=targets.device) < lengths[:, None]
        return loss.masked_fill(~valid, 0.0).sum(dim=1)
