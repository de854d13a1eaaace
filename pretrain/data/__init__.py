"""From blocks of a corpus to batches with labels."""
