"""Genomes by name: the catalog, and a cache of downloaded files."""
