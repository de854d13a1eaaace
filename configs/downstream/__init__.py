"""Presets of `dnachunker finetune`, `evaluate` and `annotate`."""
