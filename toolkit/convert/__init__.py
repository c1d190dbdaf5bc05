"""Readers of pretrained encoders that other programs wrote."""

from toolkit.convert.converted import Converted

__all__ = ["Converted"]
