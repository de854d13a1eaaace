"""Checkpoints that are complete or absent: saved, found, loaded, copied."""
