"""A class for every base of a genome, learned from its annotation: gene parts beside baselines."""
