"""Searches and inference: text, embeddings, speaker turns."""
