"""Sequence that a causal model generates, and how it compares."""
