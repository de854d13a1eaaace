"""Decides what lies where: splits, blocks and shards."""
