"""Measures candidates on a GPU: here, or by a bundle on a machine that has one and neither Kompilo nor TVM."""
