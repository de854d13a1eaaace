"""Builds a corpus: the steps, the tasks of workers, and the partial folder that becomes the corpus."""
