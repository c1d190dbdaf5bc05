"""Cuts to batches: manifests, validation, robust reading, simulated corpora, features, augmentation, sampling."""
