"""Networks that other programs trained, as networks of ours."""
