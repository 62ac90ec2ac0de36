"""Operators as loop kernels, each with the space of its configs."""
