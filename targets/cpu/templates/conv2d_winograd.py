"""Two-dimensional 3x3 convolutions of stride 1 by Winograd's minimal filtering, F(m x m, 3x3)."""
