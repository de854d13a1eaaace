"""Presets of `dnachunker launch`."""
