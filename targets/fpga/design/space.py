"""The designs of a model for a part, as the tuner sees them: what is built by default, and better ones as they are
found."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ....compiler.errors import TargetError
from ....compiler.schedule.whole_design import DesignPoint, KnownDesign
from ..kernel.ir import Const, Expr
from ..spec import RESOURCES, FpgaSpec
from .body import Body, Model, rewrite
from .build import Built, build_plan, default_plan, finish
from .emit import Unfoldable
from .fold import Plan
from .record import Design
from .search import Climber, Step, plan_of, widths_of
from .share import share_memories

# Raised when equal folds make other hardware than before: records of earlier versions then count for nothing.
VERSION = 1
# Designs along the first path that are built for the picture of time against blocks.
_SAMPLES = 10
# Plans of a path that are built until one fits with its multiplexers.
_TRIES = 8
_TIGHTER = 0.985


def model_key(model: Model) -> str:
    """The same for models whose operators have the same loops over tensors of the same sizes and types."""
    text = "\n".join([str(VERSION), *(_body_text(b) for b in model.bodies)])
    tensors = "\n".join(f"{t.name} {t.shape} {t.dtype} {t.role}" for t in model.tensors.values())
    return hashlib.sha256(f"{text}\n{tensors}".encode()).hexdigest()[:32]


def _body_text(body: Body) -> str:
    """A body without its name and without numbers that data decided, such as a quantization's scale."""
    values = [v.map(_anonymous) for v in (body.value, body.finish) if v is not None]
    return repr((body.axes, body.reduce, body.target.name, body.index, values, body.combine))


def _anonymous(expr: Expr) -> Expr:
    return rewrite(expr, lambda e: Const(0, e.dtype) if isinstance(e, Const) else None)


def known_design(model: Model, spec: FpgaSpec, known: KnownDesign) -> Design | None:
    """The design that a record names; None if it cannot be, or does not fit."""
    model = share_memories(model)
    plan = plan_of(model, [(w[0], w[1]) for w in known.folds if len(w) == 2])
    try:
        built = build_plan(model, plan, spec) if plan is not None else None
    except Unfoldable:
        return None
    return finish(built, spec) if built is not None and not built.over(spec) else None


class FpgaDesigns:
    """A `DesignSpace`."""

    def __init__(self, model: Model, spec: FpgaSpec):
        self.key = model_key(model)
        self.model, self.spec = share_memories(model), spec
        self.default: DesignPoint | None = None
        self.problem = ""
        try:
            self.default = self._point(default_plan(self.model, spec))
        except TargetError as error:
            self.problem = error.message

    def points(self, seed: int, give_up: Callable[[], bool]) -> Iterator[DesignPoint]:
        """The end of the path from one lane each, then designs along it, then ends of paths that start from the best
        with some operators folded up. TargetError if no plan fits at all."""
        rng = np.random.default_rng(seed)
        climber = Climber(self.model, self.spec, give_up)
        room = dict.fromkeys(RESOURCES, 1.0)
        path = climber.climb(climber.bottom(), room)
        best = self._last_that_fits(path, room)
        if best is None:
            raise TargetError(self.problem or f"target {self.spec.key}: expected a model that fits, found none.")
        yield self._point(best)
        for plan in _along(path):
            if give_up():
                return
            built = self._built(plan)
            if built is not None and not built.over(self.spec):
                yield self._point(built)
        while not give_up():
            start = climber.ruined(best.plan, rng)
            built = self._last_that_fits(climber.climb(start, room, climber.weights(rng)), room)
            if built is not None:
                yield self._point(built)
                best = min(best, built, key=lambda b: b.exact.cycles)

    def _last_that_fits(self, path: Sequence[Step], room: dict[str, float]) -> Built | None:
        """The last plan of a path whose kernel fits. What plans do not count (multiplexers) narrows `room` for the
        next path."""
        allowed = dict.fromkeys(RESOURCES, 1.0)
        for step in itertools.islice(self._candidates(path, allowed), _TRIES):
            built = self._built(step.plan)
            over = {} if built is None else built.over(self.spec)
            if built is not None and not over:
                return built
            for resource, times in over.items():
                allowed[resource] *= _TIGHTER / times
                room[resource] = min(room[resource], allowed[resource])
        return None

    def _candidates(self, path: Sequence[Step], allowed: dict[str, float]) -> Iterator[Step]:
        """Steps from the last on, those only that keep to what is `allowed` by then."""
        for step in reversed(path):
            if all(n <= allowed[r] * self.spec.budget(r) for r, n in step.used.items()):
                yield step

    def _built(self, plan: Plan) -> Built | None:
        try:
            return build_plan(self.model, plan, self.spec)
        except Unfoldable:
            return None

    def _point(self, built: Built) -> DesignPoint:
        resources = tuple((r, n, self.spec.budget(r)) for r, n in built.used.items())
        cycles = built.exact.cycles
        return DesignPoint(tuple(widths_of(built.plan)), cycles, cycles / self.spec.clock_hz, resources)


def _along(path: Sequence[Step]) -> list[Plan]:
    """Plans of a path whose multiplier blocks grow by equal factors."""
    first, last = (max(1, s.used["dsp"]) for s in (path[0], path[-1]))
    wanted = [first * (last / first) ** (k / _SAMPLES) for k in range(_SAMPLES)]
    chosen = [min(range(len(path)), key=lambda k, w=w: abs(path[k].used["dsp"] - w)) for w in wanted]  # type: ignore[misc]
    return [path[k].plan for k in sorted(set(chosen), reverse=True)]
