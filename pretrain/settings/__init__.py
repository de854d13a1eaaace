"""Parts of the pretraining config. Torch-free."""
