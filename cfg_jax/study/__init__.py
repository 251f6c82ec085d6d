"""Sweeps over guidance weights, and the tables, plots and claims that follow from them."""
