"""Scores of variants, and how well they tell labelled variants apart."""
