"""Products of a matrix with a few vectors, which take as long as the matrix takes to be read: each element is, once.

    C[r, j] = sum_k X[r, k] * W[j, k]        # X: at most 8 rows; W: "lines" j of length K; either may be A or B

Lines that lie along K: a warp shares out K in vectors of 16 bytes and has several lines under way; `split` warps may
share the same lines. Lines that lie side by side: a thread has a vector of lines, and the threads of a column share out
K. What threads have summed up in float32 meets in shuffles and shared memory; the epilogue is fused behind that.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ....compiler.schedule.op_spec import OpSpec
from ....compiler.schedule.target_spec import TargetSpec
from ....compiler.schedule.template import Candidate, Config, Space, Template
from ....compiler.schedule.traits import Traits
from ...shared.matmul_problem import read_matrices
from ..estimates import estimated
from ..spec import GpuSpec
from .gemm_matmul import MatmulMemory, Matrix, packing_of
from .gemv_kernels import THREADS, Across, Along, Thin
from .vectors import VECTOR_BYTES, dtype_bytes

# Most rows of X: beyond, tiles read the matrix just as seldom and multiply faster.
MOST_ROWS = 8
# Sums that a thread keeps in registers at most.
_SUMS = 32
# Warps that an SM must have to keep device memory busy, with a vector of 16 bytes under way in each thread.
_WARPS_PER_SM = 16
_FLOATS = ("float32", "float16", "bfloat16")


def read_thin(op: OpSpec) -> Thin | None:
    """The thin product that `op` is, with sums of float32; None if it is none."""
    problem = read_matrices(op)
    if problem is None or op.anchor_type.dtype != "float32" or any(t.dtype not in _FLOATS for t in op.inputs[:2]):
        return None
    m, n, k = problem.m, problem.n, problem.k
    if 0 in (m, n, k, *problem.batch):
        return None
    batch = int(np.prod([d for d in problem.batch if isinstance(d, int)]))
    few = [estimated(d) for d in (m, n)]
    if min(few) > MOST_ROWS:
        return None
    if few[0] <= few[1]:
        return Thin(problem, few[0], n, k, 1, batch)
    return Thin(problem, few[1], m, k, 0, batch)


class Gemv(Template):
    """Thin matmuls of floats, with constant, permuted and batched operands; sizes but the thin one may be open."""

    name = "gemv"

    def match(self, op: OpSpec, target: TargetSpec) -> Space | None:
        """Where one side has at most 8 rows, and reading the other takes longer than multiplying."""
        thin = read_thin(op) if isinstance(target, GpuSpec) else None
        if thin is None or not isinstance(target, GpuSpec) or _multiplies_longer(thin, target):
            return None
        memory = _memory(op, thin)
        large = memory.operands(0)[thin.large]
        if large.along_k:
            return _space_along(thin, target, large.lanes)
        return Space(Config.of(lines=0, split=0, ahead=_ahead(thin, large))) if _lies_across(large) else None

    def build(self, op: OpSpec, target: TargetSpec, config: Config) -> Candidate:
        """The kernel; a constant right operand is packed with lines along K."""
        thin = read_thin(op)
        assert thin is not None
        assert isinstance(target, GpuSpec)
        memory = _memory(op, thin)
        packing = memory.packing
        kind = Across if config.int("lines") == 0 else Along
        body = kind(thin, memory, target, config).kernel()
        packers = {1: packing.packer(thin.problem.op.ints("rhs_perm"))} if packing is not None else {}
        return Candidate(memory.function(body), packers)

    def traits(self, op: OpSpec, target: TargetSpec, configs: Sequence[Config]) -> Traits:
        """Traits of `configs`."""
        thin = read_thin(op)
        assert thin is not None
        assert isinstance(target, GpuSpec)
        lines, depth = thin.known
        size = dtype_bytes(thin.dtype(thin.large))
        taken = np.asarray([max(1, c.int("lines")) for c in configs], dtype=np.float64)
        split = np.asarray([max(1, c.int("split")) for c in configs], dtype=np.float64)
        warps = thin.batch * np.ceil(lines / taken) * split
        return {
            "tile_rows": float(thin.rows),
            "tile_vectors": taken,
            "tiles": warps,
            "inner_trip": np.asarray([c.int("ahead") for c in configs], dtype=np.float64),
            "tile_steps": depth / split,
            "lane_use": lines / (np.ceil(lines / taken) * taken),
            "items": warps,
            "imbalance": np.maximum(1.0, target.sms * _WARPS_PER_SM / warps),
            "weight_traffic": float(thin.batch * lines * depth * size),
            "input_traffic": thin.batch * np.ceil(lines / taken) * thin.rows * depth * size,
        }


def _memory(op: OpSpec, thin: Thin) -> MatmulMemory:
    unit = VECTOR_BYTES // dtype_bytes(thin.dtype(1))
    return MatmulMemory(op, thin.problem, packing_of(thin.problem, unit, turned=True))


def _multiplies_longer(thin: Thin, spec: GpuSpec) -> bool:
    """Whether the plain units take longer for an element of W, `rows` multiply-adds and a cast, than memory does."""
    size = dtype_bytes(thin.dtype(thin.large))
    lanes = spec.peak_flops("float32") / (2 * spec.clock_hz)
    per_cycle = spec.bandwidth / spec.clock_hz
    work = (thin.rows + (size < 4)) / lanes
    return spec.matrix != "none" and work > 2 * size / per_cycle


def _space_along(thin: Thin, spec: GpuSpec, lanes: int) -> Space:
    """How many lines a warp has, and how many warps share them: as many lines as leave warps enough to fill the GPU."""
    lines, depth = thin.known
    warps = THREADS // spec.warp
    step = spec.warp * lanes
    counts = [c for c in (1, 2, 4, 8) if c * thin.rows <= _SUMS and (c == 1 or c <= lines)]
    splits = [s for s in (1, 2, 4, 8) if s <= warps and (s == 1 or (s - 1) * step < depth)]
    wanted = spec.sms * _WARPS_PER_SM

    def shortfall(count: int, split: int) -> tuple[float, int, int]:
        found = thin.batch * -(-lines // count) * split
        return (max(0.0, wanted / found - 1.0), split, -count)

    ahead = 2 if depth >= 4 * step else 1
    pairs = sorted(((c, s) for c in counts if c <= 4 for s in splits), key=lambda p: shortfall(*p))
    default = Config.of(lines=pairs[0][0], split=pairs[0][1], ahead=ahead)
    every = [Config.of(lines=c, split=s, ahead=a) for c in counts for s in splits for a in (1, 2, 4)]
    return Space(default, tuple(every))


def _lies_across(large: Matrix) -> bool:
    return isinstance(large.stride, int) and large.stride == 1


def _ahead(thin: Thin, large: Matrix) -> int:
    return 4 if thin.rows * large.lanes <= _SUMS else 2
