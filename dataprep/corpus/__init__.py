"""A finished corpus: the format on disk, the index, the corpus card, and the checks."""
