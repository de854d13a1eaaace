"""Reads genome files of every format into prepared sequences."""
