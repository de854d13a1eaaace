"""Labelled tasks: suites, downloads, folders, metrics."""
