"""Runs the cells of a sweep: here, on Ray, on SLURM."""
