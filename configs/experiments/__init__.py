"""Presets of `dnachunker sweep`."""
