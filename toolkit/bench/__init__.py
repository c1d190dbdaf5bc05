"""Measurements of speed and memory, against other programs in the same run."""
