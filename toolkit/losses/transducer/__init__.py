"""Transducer losses: k2's pruned RNN-T and the exact sum, on CPUs and GPUs."""
