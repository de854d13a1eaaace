"""The model under DeepSpeed: ranks, optimizer, gradient steps."""
