"""Reads genomes and files of intervals in every format; prepared genomes have 2 bits a base and random access."""
