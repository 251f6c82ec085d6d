"""Sweeps over guidance weights, and their tables, plots and claims."""
