"""Building blocks: attention, convolution, pooling, masks."""
