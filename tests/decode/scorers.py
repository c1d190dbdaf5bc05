"""How the tests walk scorers: one hypothesis at a time, or many at once."""

import torch


def walk(scorer, tokens):
    """Score of each token of one hypothesis, and of its end."""
    state, scores = scorer.start(1), []
    for token in tokens:
        row = scorer.scores(state)
        assert row.dtype == torch.float32 and row[0, 0] == 0
        scores.append(float(row[0, token]))
        state = scorer.advance(state, torch.tensor([token]))
    return scores, float(scorer.final(state)[0])


def walk_together(scorer, hypotheses):
    """The same for many hypotheses of any lengths; those that are over take no more tokens."""
    state, scores = scorer.start(len(hypotheses)), [[] for _ in hypotheses]
    for place in range(max(map(len, hypotheses))):
        tokens = torch.tensor([row[place] if place < len(row) else 0 for row in hypotheses])
        for own, row, token in zip(scores, scorer.scores(state), tokens.tolist(), strict=True):
            if token:
                own.append(float(row[token]))
        state = scorer.advance(state, tokens)
    return scores, scorer.final(state).tolist()
