"""Whole models as hardware: what a model's operators become, how far each is unfolded, and the record of it all."""
