"""Presets, by kind."""
