"""Builds a corpus: steps, tasks of workers, the folder that appears when it is complete."""
