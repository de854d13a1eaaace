"""Scores of the variants in a VCF."""
