"""Presets of `dnachunker pretrain`."""
