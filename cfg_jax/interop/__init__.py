"""Published checkpoints of other programs."""
