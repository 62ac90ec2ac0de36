"""Post-training quantization to 8-bit integers."""
