"""Presets of `dnachunker finetune` and `evaluate`."""
