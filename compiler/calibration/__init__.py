"""Measuring the ranges of activations for quantization."""
