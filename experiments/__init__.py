"""Sweeps: a question about the model, answered by many runs and one table."""
