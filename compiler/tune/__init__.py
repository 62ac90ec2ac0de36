"""Tuning: measure the configs that templates offer, remember the results, and learn from them."""
