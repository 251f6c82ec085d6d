"""Checkpoints on disk, their digests, and folder locks."""
