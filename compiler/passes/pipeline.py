"""The whole way of a module through the compiler, as one list of phases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..knobs import Knobs
from ..schedule.selection import Selector
from .base import Pass, PassRunner, run_passes
from .cast_at_uses import CastAtUses
from .check_sizes import CheckSizes
from .choose_layout import ChooseLayout
from .common_subexpressions import CommonSubexpressions
from .conv1d_to_conv2d import Conv1dToConv2d
from .conv3d_to_conv2d import Conv3dToConv2d
from .fold_pad import FoldPad
from .fold_scale_shift import FoldScaleShift
from .fuse_attention import FuseAttention
from .fuse_layer_norm import FuseLayerNorm
from .legalize import Legalize
from .legalize_layouts import LegalizeLayouts
from .lookup_tables import LookupTables
from .lower_precision import LowerPrecision
from .narrow_operands import NarrowOperands
from .own_outputs import OwnOutputs
from .quantize.lower import LowerQuantized
from .schedule_functions import ScheduleFunctions
from .select_templates import SelectTemplates
from .simplify import Simplify
from .sink_permutes import SinkPermutes
from .sink_reshapes import SinkReshapes
from .transposed_to_conv2d import TransposedToConv2d
from .unsigned_divisions import UnsignedDivisions
from .view_reshapes import ViewReshapes
from .widen_bfloat16 import WidenBfloat16

if TYPE_CHECKING:
    import tvm

    from ..schedule.target import Target

Phase = tuple[str, Callable[[Selector], Sequence[Pass]]]

# Less graph: algebra, constants, dead code; weights take in what only scales or shifts.
SIMPLIFY: tuple[Pass, ...] = (
    Simplify(),
    CommonSubexpressions(),
    LookupTables(),
    FoldPad(),
    FoldScaleShift(),
    FuseLayerNorm(),
    Conv1dToConv2d(),
    Conv3dToConv2d(),
    Simplify(),
)

PHASES: tuple[Phase, ...] = (
    ("simplify", lambda selector: SIMPLIFY),
    # Where float16 will do, it is what lies between kernels. Spatial operators run channels-last wherever that
    # transposes least.
    (
        "layout",
        lambda selector: [
            LowerQuantized(),
            TransposedToConv2d(selector),
            *([LowerPrecision()] if selector.precision == "fp16" else []),
            ChooseLayout(),
            Simplify(),
            SinkReshapes(),
            SinkPermutes(),
            CommonSubexpressions(),
            OwnOutputs(),
        ],
    ),
    # Anchors with their epilogues become kernels of the target's templates.
    (
        "select",
        lambda selector: [
            FuseAttention(selector),
            NarrowOperands(selector),
            SelectTemplates(selector),
            CastAtUses(),
            LegalizeLayouts(),
        ],
    ),
    # Everything else becomes TIR, fused along elementwise and reduction chains, then scheduled by generic rules.
    ("legalize", lambda selector: [Legalize(selector.target), ViewReshapes()]),
    (
        "schedule",
        lambda selector: [ScheduleFunctions(selector.target), CheckSizes(), UnsignedDivisions(), WidenBfloat16()],
    ),
)


def simplify(mod: tvm.ir.IRModule) -> tvm.ir.IRModule:
    """`mod` after the first phase, which is the same for all targets."""
    return run_passes(mod, SIMPLIFY)


def phase_names() -> tuple[str, ...]:
    """Names of all phases, in order."""
    return tuple(name for name, _ in PHASES)


def run_phases(
    mod: tvm.ir.IRModule,
    target: Target,
    report: Callable[[str, int, int], None] | None = None,
    stop_after: str | None = None,
    selector: Selector | None = None,
) -> tvm.ir.IRModule:
    """`mod` after all phases, or after the one called `stop_after`; `report(pass, done, total)` hears of each start.

    `selector` chooses the templates and configs of `target`; by default each template's own choice is taken.
    """
    selector = selector or Selector(target)
    passes: list[Pass] = []
    for name, make in PHASES:
        passes += make(selector)
        if name == stop_after:
            break
    return PassRunner(Knobs.from_environment()).run(mod, passes, report)[0]
