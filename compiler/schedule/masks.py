"""What the masks of an OpSpec of kind "attention" do, as its attribute `masks` has it."""

from __future__ import annotations

# A mask is added to scores; is true where scores are kept; is true where they become the attribute `fill`.
ADDED, KEEPS, DROPS = range(3)
