"""Which windows are seen at which step, as pure functions."""
