"""Checkpoints on disk, their digests, and the lock of a folder."""
