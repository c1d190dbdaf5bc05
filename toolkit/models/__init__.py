"""Encoders, heads and the model-data contract."""
