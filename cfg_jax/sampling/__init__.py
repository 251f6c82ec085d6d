"""Trained models and classifiers, and the compiled program that draws samples from them."""
