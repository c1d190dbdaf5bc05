"""Zipformer2 encoder (Yao et al. 2023, arXiv 2310.11230), offline, chunk-causal and streaming."""
