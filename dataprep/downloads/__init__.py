"""Genomes by name: the catalogue, and a cache of what was downloaded."""
