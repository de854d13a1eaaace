"""Classifiers from an exported model: fine-tuned, probed, compared."""
