"""Starts training processes on one or many machines; knows their argv, not the model."""
