"""What a candidate's machine code says against measuring it, before it is run at all.

Registers that did not fit are stored to memory and read again in every step of a loop; a few outside of it do no harm,
hence the limit. Occupancy by itself says little (kernels for warpgroups fill an eighth of an SM by design), so
candidates are compared with the fastest of the same template, and only a large difference counts.
"""

from __future__ import annotations

from ...device_code import Usage

# Bytes of a thread that may be spilled: 16 registers.
MOST_SPILLED = 64
# A candidate with less than this part of the occupancy of the fastest known one of its template is not run.
LEAST_OCCUPANCY = 0.25


def reason_against(used: Usage, shared_bytes: int, best: Usage | None, only: bool) -> str | None:
    """One sentence on why not to measure a candidate; None if nothing speaks against it.

    Args:
        used: what it takes.
        shared_bytes: most shared memory of a block on this GPU.
        best: what the fastest measured candidate of its template takes.
        only: whether the operator has nothing to fall back to, its default config: then it may be slow, but must run.
    """
    if used.shared_bytes > shared_bytes:
        return f"a block takes {used.shared_bytes} bytes of shared memory, the GPU gives at most {shared_bytes}."
    if not used.occupancy:
        return f"a block does not fit the GPU, which has too few {used.limit} for it."
    if only:
        return None
    if used.spill_bytes > MOST_SPILLED:
        return f"each thread keeps {used.spill_bytes} bytes in memory that do not fit its {used.registers} registers."
    if best is not None and used.occupancy < LEAST_OCCUPANCY * best.occupancy:
        return (
            f"it fills {used.occupancy:.0%} of an SM ({used.limit} allow no more), "
            f"the fastest so far {best.occupancy:.0%}."
        )
    return None
