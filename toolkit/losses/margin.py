"""Additive angular margin softmax: the loss of speaker classification.

Source: Deng et al. 2019, "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", equation 3.

Dimensions: B utterances, D embedding size, C classes (speakers).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def cosine_similarity(embeddings: Tensor, weight: Tensor) -> Tensor:
    """Cosines between embeddings and class directions, in float32 even under autocast.

    Half precision would cost more here than anywhere else: near 1 it resolves a cosine to 0.004 only
    (bfloat16), and the scale multiplies that error by thirty.

    Args:
        embeddings: (B, D).
        weight: (C, D), one direction a class.

    Returns:
        (B, C) in [-1, 1].
    """
    with torch.autocast(embeddings.device.type, enabled=False):
        return F.linear(F.normalize(embeddings.float(), dim=-1), F.normalize(weight.float(), dim=-1))


def angular_margin_softmax(
    cosines: Tensor, labels: Tensor, margin: float, scale: float, easy_margin: bool = False
) -> Tensor:
    """Cross entropy over scaled cosines, in which the true class must win by an angle of `margin`.

    The true class is scored cos(theta + margin) in place of cos(theta). That stops falling once theta +
    margin passes pi, so the far side needs a rule of its own. By default such utterances get cos(theta) -
    margin * sin(margin), the straight continuation. With `easy_margin` the margin holds only where theta is
    below 90 degrees; farther utterances keep the plain cosine, which is kinder to the first updates of a
    network trained from scratch.

    Args:
        cosines: (B, C), as from `cosine_similarity`.
        labels: (B,) int64, the true classes.
        margin: in radians, 0 <= margin < pi / 2; 0 gives the plain cosine softmax.
        scale: what all cosines are multiplied by before the softmax.
        easy_margin: the rule for the far side, see above.

    Returns:
        The loss summed over the batch, a float32 scalar.
    """
    if not 0 <= margin < math.pi / 2:
        raise ValueError(f"margin must be in [0, pi/2), got {margin}")
    with torch.autocast(cosines.device.type, enabled=False):
        cosines = cosines.float()
        true = cosines.gather(1, labels[:, None])
        # The floor keeps the square root's gradient finite where an embedding lies right on its class
        # direction.
        sine = (1 - true.square()).clamp_min(1e-7).sqrt()
        moved = true * math.cos(margin) - sine * math.sin(margin)
        if easy_margin:
            moved = torch.where(true > 0, moved, true)
        else:
            moved = torch.where(true > -math.cos(margin), moved, true - margin * math.sin(margin))
        return F.cross_entropy(scale * cosines.scatter(1, labels[:, None], moved), labels, reduction="sum")


def margin_at(step: int, final: float, start: int = 0, end: int = 0) -> float:
    """The margin schedule: 0 before update `start`, `final` from update `end`, a straight line between.

    A margin that is there from the first update can keep a classifier from learning at all.

    >>> [margin_at(step, final=0.2, start=100, end=200) for step in (0, 100, 150, 200, 900)]
    [0.0, 0.0, 0.1, 0.2, 0.2]
    """
    if step >= end:
        return final
    return final * max(0, step - start) / (end - start) if step > start else 0.0
