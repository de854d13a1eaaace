"""Where and how training processes start; knows commands, not models."""
