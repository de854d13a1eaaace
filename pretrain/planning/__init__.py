"""What a run would cost and whether it can start."""
