"""Text: normalisation and tokenizers."""
