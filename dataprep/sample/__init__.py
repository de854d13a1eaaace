"""Two small genomes for the demo and for tests."""
