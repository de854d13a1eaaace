"""Corpus to checkpoint to Hugging Face folder."""
