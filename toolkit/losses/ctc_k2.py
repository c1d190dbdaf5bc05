"""Connectionist temporal classification over k2's graphs, which may hold several ways to say a transcript.

Dimensions: B utterances, T frames, V symbols, U tokens.
"""

from typing import Any

import torch
from torch import Tensor

from toolkit.losses.ctc import needed_frames
from toolkit.losses.transducer.k2_backend import k2


def ctc_loss(
    log_probs: Tensor, lengths: Tensor, tokens: Tensor, token_lengths: Tensor, beam: float = 20.0
) -> tuple[Tensor, Tensor]:
    """What `toolkit.losses.ctc.ctc_loss` computes, by k2.

    Args:
        log_probs: (B, T, V) log-probabilities.
        lengths: (B,) valid frames.
        tokens: (B, U) ids, padded with 0.
        token_lengths: (B,).
        beam: paths that are so much worse than the best, in log-probability, are left out.

    Returns:
        loss: (B,) float32, 0 where the tokens do not fit into the frames.
        fits: (B,) bool, whether they do.
    """
    fits = lengths >= needed_frames(tokens, token_lengths)
    # A graph without a path would give infinities: an empty transcript stands for those that do not fit.
    counts = torch.where(fits, token_lengths, 0).tolist()
    transcripts = [row[:count] for row, count in zip(tokens.tolist(), counts, strict=True)]
    graphs = k2().ctc_graph(transcripts, modified=False, device=str(log_probs.device))
    return torch.where(fits, graph_loss(log_probs, lengths, graphs, beam), 0.0), fits


def graph_loss(log_probs: Tensor, lengths: Tensor, graphs: Any, beam: float = 20.0) -> Tensor:
    """Negative log-likelihood of each utterance's decoding graph.

    Args:
        log_probs: (B, T, V) log-probabilities.
        lengths: (B,) valid frames, at least 1.
        graphs: B graphs over symbols, blank included, as one arc-sorted k2.Fsa: transcripts composed with a lexicon
            and the CTC topology, say.
        beam: paths that are so much worse than the best, in log-probability, are left out.

    Returns:
        (B,) float32; inf for a graph without a path of that many frames.
    """
    # k2 wants the longest first, and where each one lies, in int32 on the CPU.
    durations, order = lengths.cpu().sort(descending=True, stable=True)
    segments = torch.stack([order, torch.zeros_like(order), durations], dim=1).int()
    graphs = k2().index_fsa(graphs, order.int().to(log_probs.device))
    frames = k2().DenseFsaVec(log_probs.float(), segments)
    loss = k2().ctc_loss(graphs, frames, output_beam=beam, reduction="none")
    return loss[order.argsort().to(loss.device)]
