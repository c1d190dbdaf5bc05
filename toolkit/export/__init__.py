"""Writers of pretrained encoders for other programs."""
