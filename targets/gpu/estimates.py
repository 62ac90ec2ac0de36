"""What estimates and default choices go by where the GPU or the operator does not say it."""

from __future__ import annotations

# What sizes that only a run tells are taken for: of rows and matrices, and of images.
UNKNOWN_SIZE, UNKNOWN_IMAGE = 1024, 64
# Static shared memory that every GPU gives a block without being asked for more, bytes.
STATIC_SHARED_BYTES = 48 * 1024


def estimated(size: object, unknown: int = UNKNOWN_SIZE) -> int:
    """A size that is known, or else `unknown`."""
    return size if isinstance(size, int) else unknown
