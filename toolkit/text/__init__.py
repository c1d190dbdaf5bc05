"""Text: normalisation, tokenizers, lexicons, n-gram models, phrases."""
