"""Kernels of anchors: matmul, convolutions, pooling."""
