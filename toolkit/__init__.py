"""A speech processing toolkit: self-supervised pretraining, recognition, speaker verification and diarization."""

__version__ = "0.1.0"
