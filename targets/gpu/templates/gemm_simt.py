"""float32 products on the vector units of any GPU."""

from __future__ import annotations

from collections.abc import Sequence

from ....compiler.schedule.op_spec import OpSpec
from ....compiler.schedule.template import Candidate, Config, Space
from ....compiler.schedule.traits import Traits
from ..spec import GpuSpec
from .gemm_costs import estimate, gemm_space, most_resident
from .gemm_template import Found, GemmTemplate
from .gemm_tile import QUAD, GemmNest, GemmTile
from .gemm_traits import TileFacts, product_traits

_FLOAT32 = 4


class SimtTemplate(GemmTemplate):
    """Products of float32 with a float32 epilogue."""

    def unit(self, op: OpSpec, spec: GpuSpec) -> str | None:
        """The type of everything; None where it is not float32."""
        plain = all(t.dtype == "float32" for t in (*op.inputs, op.anchor_type, op.output))
        return "float32" if plain else None

    def space(self, found: Found) -> Space | None:
        """See GemmTemplate."""
        return gemm_space(found.problem.sizes, found.spec, found.problem.access(False, turned=False).lanes[0])

    def candidate(self, found: Found, config: Config) -> Candidate:
        """See GemmTemplate."""
        tile = GemmTile.of(config)
        access = found.problem.access(False, turned=False, bm=tile.bm, bn=tile.bn)
        kernel = GemmNest(tile, access.grid(tile, tile.bk, "float32", "float32", QUAD)).kernel(access.operands)
        return kernel.candidate(access.function(kernel.body), access.packers)

    def traits_of(self, found: Found, configs: Sequence[Config]) -> Traits:
        """Traits of `configs`; a tile is a thread's."""

        def facts(t: GemmTile) -> TileFacts:
            parts = (t.tm, t.tn / 4, t.threads, t.threads, t.registers, t.shared_bytes, _FLOAT32)
            return TileFacts(t.bm, t.bn, t.bk, t.split, *parts)

        problem, spec = found.problem.sizes, found.spec
        chosen = [(t, most_resident(t, spec)) for t in map(GemmTile.of, configs)]
        return product_traits(problem, spec, [(facts(t), estimate(problem, t, spec, most)) for t, most in chosen])
