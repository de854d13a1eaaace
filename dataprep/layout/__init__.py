"""Plans a corpus: divides genomes into splits, blocks and shards."""
