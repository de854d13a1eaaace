"""Presets of `dnachunker shard`."""
