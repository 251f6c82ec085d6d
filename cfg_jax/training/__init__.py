"""The training step, the loop around it, and the run from config to checkpoints."""
