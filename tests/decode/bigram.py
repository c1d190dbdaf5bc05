"""A scorer simple enough to be trusted: a table of what each symbol adds after the one before."""

import torch


class Bigram:
    """The state is the last symbol."""

    def __init__(self, symbols, seed=0, dtype=torch.float32):
        generator = torch.Generator().manual_seed(seed)
        self.table = torch.randn(symbols, symbols, generator=generator).to(dtype)
        self.table[:, 0] = 0.0
        self.ends = torch.randn(symbols, generator=generator).to(dtype)

    def start(self, count):
        return (torch.zeros(count, dtype=torch.int64),)

    def scores(self, state):
        return self.table[state[0]]

    def advance(self, state, tokens):
        return (torch.where(tokens > 0, tokens, state[0]),)

    def final(self, state):
        return self.ends[state[0]]

    def of(self, tokens):
        """Score of a whole sequence, its end included."""
        pairs = zip([0, *tokens], tokens, strict=False)
        return sum(float(self.table[a, b]) for a, b in pairs) + float(self.ends[[0, *tokens][-1]])
