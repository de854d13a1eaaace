"""Finds sequence that occurs twice: duplicates within a split, leakage between splits."""
