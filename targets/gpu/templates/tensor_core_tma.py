"""Hopper's copy engine, barriers in shared memory, and registers that warps hand to each other, as TIR calls.

Names are those of the PTX ISA 9.0: "Data Movement and Conversion Instructions: Bulk copy", "Parallel Synchronization
and Communication Instructions: mbarrier", "Miscellaneous Instructions: setmaxnreg". A copy moves a box of a tensor that
a descriptor tells of (`cuTensorMapEncodeTiled`); what lies outside of the tensor arrives as zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import tirx
from tvm.tirx import Stmt

from .tensor_core_ptx import call

_INLINE = "__forceinline__ __device__"
_SHARED = "static_cast<unsigned>(__cvta_generic_to_shared({}))"


def start_barrier(barrier: Any, arrivals: int) -> Stmt:
    """Makes 64 bits of shared memory a barrier whose phases end with so many arrivals, and the bytes they expect."""
    name = f"kompilo_start_barrier_{arrivals}"
    text = f'asm volatile("mbarrier.init.shared::cta.b64 [%0], {arrivals};" :: "r"({_SHARED.format("b")}) : "memory");'
    return call(name, f"\n{_INLINE} void {name}(void* b) {{ {text} }}\n", barrier)


def publish_barriers(cluster: int) -> Stmt:
    """Barriers that this thread has started are seen by the copy engine and, behind a barrier, by all threads."""
    name = f"kompilo_publish_barriers_{cluster}"
    fences = ["fence.proxy.async.shared::cta;"]
    if cluster > 1:
        fences.append("fence.mbarrier_init.release.cluster;")
    text = " ".join(f'asm volatile("{fence}" ::: "memory");' for fence in fences)
    return call(name, f"\n{_INLINE} void {name}() {{ {text} }}\n")


def expect_bytes(barrier: Any, count: int) -> Stmt:
    """Arrives, and has the phase wait for `count` bytes of copies."""
    name = f"kompilo_expect_{count}"
    instruction = f"mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], {count};"
    text = f'asm volatile("{instruction}" :: "r"({_SHARED.format("b")}) : "memory");'
    return call(name, f"\n{_INLINE} void {name}(void* b) {{ {text} }}\n", barrier)


def arrive(barrier: Any) -> Stmt:
    """Arrives at a barrier of this block."""
    name = "kompilo_arrive"
    instruction = "mbarrier.arrive.shared::cta.b64 _, [%0];"
    text = f'asm volatile("{instruction}" :: "r"({_SHARED.format("b")}) : "memory");'
    return call(name, f"\n{_INLINE} void {name}(void* b) {{ {text} }}\n", barrier)


def arrive_at(barrier: Any, block: Any) -> Stmt:
    """Arrives at the barrier that lies at the same place in the shared memory of `block` of the cluster."""
    name = "kompilo_arrive_at"
    body = f"""
{_INLINE} void {name}(void* b, int block) {{
  asm volatile("{{\\n.reg .b32 there;\\nmapa.shared::cluster.u32 there, %0, %1;\\n"
               "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [there];\\n}}\\n"
               :: "r"({_SHARED.format("b")}), "r"(block) : "memory");
}}
"""
    return call(name, body, barrier, block)


def wait_barrier(barrier: Any, parity: Any) -> Stmt:
    """Waits for the end of the phase of `parity`: 0 for the first; one before the first has ended already."""
    name = "kompilo_wait_barrier"
    body = f"""
{_INLINE} void {name}(void* b, int parity) {{
  asm volatile("{{\\n.reg .pred ended;\\nAGAIN:\\n"
               "mbarrier.try_wait.parity.shared::cta.b64 ended, [%0], %1;\\n"
               "@!ended bra AGAIN;\\n}}\\n"
               :: "r"({_SHARED.format("b")}), "r"(parity) : "memory");
}}
"""
    return call(name, body, barrier, parity)


def copy_box(to: Any, tiles: tirx.Var, at: Sequence[Any], barrier: Any, blocks: int = 0) -> Stmt:
    """Begins to copy the box at coordinates `at`, innermost first, to shared memory; its bytes count at `barrier`.

    With `blocks`, a mask, to the same place in each of those blocks of the cluster, and for the barrier of each.
    """
    rank = len(at)
    name = f"kompilo_copy_box_{rank}d" + (f"_to_{blocks}" if blocks else "")
    numbers = ", ".join(f"%{2 + i}" for i in range(rank))
    instruction = f"cp.async.bulk.tensor.{rank}d.shared::cluster.global.mbarrier::complete_tx::bytes"
    places = f"[%0], [%1, {{{numbers}}}], [%{2 + rank}]"
    operands = ", ".join(f'"r"(c{i})' for i in range(rank))
    many = f', "h"(static_cast<unsigned short>({blocks}))' if blocks else ""
    if blocks:
        instruction += ".multicast::cluster"
        places += f", %{3 + rank}"
    parameters = ", ".join(f"int c{i}" for i in range(rank))
    body = f"""
{_INLINE} void {name}(void* to, unsigned long long tiles, void* b, {parameters}) {{
  asm volatile("{instruction} {places};"
               :: "r"({_SHARED.format("to")}), "l"(tiles), {operands}, "r"({_SHARED.format("b")}){many} : "memory");
}}
"""
    return call(name, body, to, tirx.address_of(tiles), barrier, *at)


def keep_registers(count: int, more: bool) -> Stmt:
    """From here on the threads of this warpgroup have `count` registers each: `more` than at launch, or fewer."""
    way = "inc" if more else "dec"
    name = f"kompilo_registers_{way}_{count}"
    text = f'asm volatile("setmaxnreg.{way}.sync.aligned.u32 {count};");'
    return call(name, f"\n{_INLINE} void {name}() {{ {text} }}\n")


def sync_cluster() -> Stmt:
    """All threads of the cluster wait for each other."""
    name = "kompilo_sync_cluster"
    text = " ".join(
        f'asm volatile("barrier.cluster.{word};" ::: "memory");' for word in ("arrive.release", "wait.acquire")
    )
    return call(name, f"\n{_INLINE} void {name}() {{ {text} }}\n")


def cluster_block() -> tirx.Expr:
    """The number of this block within its cluster."""
    name = "kompilo_cluster_block"
    body = f"""
{_INLINE} int {name}() {{
  int number;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(number));
  return number;
}}
"""
    return tirx.call_intrin("int32", "tirx.cuda.func_call", name, body)
