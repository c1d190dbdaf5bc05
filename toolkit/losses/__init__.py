"""Losses: sums over a batch, never means."""
