"""A line of text drawn with numpy: a real image for the text models, without a font file."""

from __future__ import annotations

import numpy as np

# Seven rows of five pixels, top to bottom, one bit a pixel, most significant bit left.
_GLYPHS = {
    " ": (0, 0, 0, 0, 0, 0, 0),
    "C": (14, 17, 16, 16, 16, 17, 14),
    "E": (31, 16, 16, 30, 16, 16, 31),
    "I": (14, 4, 4, 4, 4, 4, 14),
    "K": (17, 18, 20, 24, 20, 18, 17),
    "L": (16, 16, 16, 16, 16, 16, 31),
    "M": (17, 27, 21, 21, 17, 17, 17),
    "N": (17, 25, 21, 19, 17, 17, 17),
    "O": (14, 17, 17, 17, 17, 17, 14),
    "P": (30, 17, 17, 30, 16, 16, 16),
    "R": (30, 17, 17, 30, 20, 18, 17),
    "S": (15, 16, 16, 14, 1, 1, 30),
    "T": (31, 4, 4, 4, 4, 4, 4),
    "2": (14, 17, 1, 2, 4, 8, 31),
    "7": (31, 1, 2, 4, 8, 8, 8),
}


def draw_text(text: str, scale: int) -> np.ndarray:
    """Black `text` on white: float32 (7 * scale, 6 * scale * len(text)) of grey values in [0, 1], softened at edges."""
    rows = [np.concatenate([_bits(_GLYPHS[c][r]) for c in text]) for r in range(7)]
    ink = np.kron(np.stack(rows), np.ones((scale, scale))).astype(np.float32)
    padded = np.pad(ink, 1, mode="edge")
    height, width = ink.shape
    soft = np.zeros_like(ink)
    for y in range(3):
        for x in range(3):
            soft += padded[y : y + height, x : x + width]
    return 1 - soft / np.float32(9)


def place(picture: np.ndarray, height: int, width: int, top: int, left: int) -> np.ndarray:
    """`picture` on a white page of height x width, its corner at (top, left); float32 (height, width)."""
    page = np.ones((height, width), np.float32)
    page[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return page


def _bits(row: int) -> np.ndarray:
    return np.array([row >> shift & 1 for shift in range(4, -1, -1)] + [0], np.float32)
