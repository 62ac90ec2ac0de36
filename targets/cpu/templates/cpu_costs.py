"""Numbers about CPUs that several templates reckon with."""

from __future__ import annotations

# A parallel region costs 2 to 4 us: below this many FLOPs one core is done before a second has started.
PARALLEL_FLOPS = 400_000
# Cycles from one FMA to the next on the same accumulator (Skylake, Zen 3 and later: 4).
FMA_LATENCY = 4
# Vector loads that start in a cycle (the same CPUs).
LOAD_PORTS = 2
# Stands for as many rows, tiles or blocks as there are.
EVERYTHING = 1 << 20
