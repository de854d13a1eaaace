"""Reads genome files of every format and writes prepared genomes: 2 bits a base, with random access."""
