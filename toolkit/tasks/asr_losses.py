"""The losses of a recogniser's heads.

Dimensions: B utterances, T frames, U tokens.
"""

import torch
from torch import Tensor

from toolkit.data.batch import AsrBatch
from toolkit.losses.consistency import consistency_loss
from toolkit.losses.ctc import ctc_loss
from toolkit.losses.label_smoothing import smoothed_cross_entropy
from toolkit.losses.transducer.full import full_loss
from toolkit.losses.transducer.pruned import pruned_loss
from toolkit.losses.transducer.pruning import pruning_ranges
from toolkit.losses.transducer.simple import simple_loss
from toolkit.models.asr import AsrModel, AsrOutput, CtcConfig
from toolkit.models.attention_decoder import AttentionConfig
from toolkit.models.transducer import TransducerConfig, TransducerOutput

Losses = dict[str, tuple[Tensor, float]]
"""Name -> loss of each utterance (B,), and what it counts in the sum."""


def ctc_losses(output: AsrOutput, batch: AsrBatch, config: CtcConfig, copies: bool) -> Losses:
    """That of the CTC head.

    Args:
        output: of the model.
        batch: what it was given.
        config: of the head.
        copies: whether the second half of the rows are other views of the first.
    """
    loss, _ = ctc_loss(output.log_probs, output.lengths, batch.tokens, batch.token_lengths)
    losses = {"ctc": (loss, config.scale)}
    if copies:
        first, second = output.log_probs.chunk(2)
        distance = consistency_loss(first, second, output.lengths[: len(first)])
        losses["consistency"] = (distance, config.scale * config.consistency)
    return losses


def transducer_losses(
    model: AsrModel,
    output: TransducerOutput,
    lengths: Tensor,
    batch: AsrBatch,
    config: TransducerConfig,
    update: int,
) -> Losses:
    """Those of the transducer: simple and pruned, or the sum over all alignments.

    Args:
        model: whose joiner makes the logits.
        output: of the model's transducer.
        lengths: (B,) valid frames.
        batch: what the model was given.
        config: of the transducer.
        update: updates done, by which the scales of the two go.
    """
    joiner = model.transducer.joiner.output
    of_joiner = output.encoder, output.predictor, joiner.weight, joiner.bias, batch.tokens
    sizes = lengths, batch.token_lengths
    if not config.pruned:
        return {"full": (full_loss(*of_joiner, *sizes, config.loss), config.scale)}
    simple = simple_loss(output.am, output.lm, batch.tokens, *sizes, config.loss)
    occupancies = simple.symbol_occupancy, simple.blank_occupancy
    ranges = pruning_ranges(*occupancies, *sizes, config.loss.prune_range, config.loss.topology)
    pruned = pruned_loss(*of_joiner, ranges, *sizes, config.loss)
    simple_scale, pruned_scale = config.loss_scales(update)
    return {
        "simple": (simple.loss, config.scale * simple_scale),
        "pruned": (pruned, config.scale * pruned_scale),
    }


def attention_losses(output: AsrOutput, batch: AsrBatch, config: AttentionConfig) -> Losses:
    """That of the attention decoder, which ends each sentence with 0."""
    targets = torch.nn.functional.pad(batch.tokens, (0, 1))
    loss = smoothed_cross_entropy(output.logits, targets, batch.token_lengths + 1, config.label_smoothing)
    return {"attention": (loss, config.scale)}
