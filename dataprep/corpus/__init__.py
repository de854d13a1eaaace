"""A corpus as it lies on disk: its format, its index, its card, its checks."""
