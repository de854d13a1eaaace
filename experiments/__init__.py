"""Sweeps: questions about the model as grids of runs, each a few `dnachunker` commands, and the tables they end in."""
