"""Genomes to a corpus: seekable, zstd-compressed WebDataset shards with an index."""
