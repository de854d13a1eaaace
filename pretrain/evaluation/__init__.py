"""Scores on held-out windows, their baselines and diagnostics."""
