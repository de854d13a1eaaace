"""Finds sequence that occurs twice: duplicate blocks, and leakage from the training split."""
