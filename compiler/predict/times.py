"""Times of operators on devices that Kompilo knows as targets: from records first, then from the cost model."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, cached_property

from ..plan.cluster import Cluster, Device
from ..plan.work import COST_MODEL, RECORD, Prediction, Predictor, WorkNode
from ..schedule.op_spec import OpSpec
from ..schedule.selection import matches
from ..schedule.target import Target, find_target
from ..tune.advisors import RecordAdvisor
from ..tune.cost_model import CostModel
from ..tune.evidence import best_of
from ..tune.features import idle_factors
from ..tune.library import RecordLibrary, Records
from ..tune.task import points_of

# Three quarters of operators are nearer to what the cost model predicts of their best config without having learnt from
# them (benchmarks/plan_errors.py). Of records it is an assumption: they are times of operators outside of a model.
RECORD_ERROR, COST_MODEL_ERROR = 0.05, 0.26


class TargetTimes:
    """Times of operators on one target."""

    def __init__(self, target: Target, library: RecordLibrary):
        self.target = target
        self.records = RecordAdvisor(library, target)
        self.predict = cache(self._predict)

    @cached_property
    def model(self) -> CostModel | None:
        """The cost model that comes with Kompilo, if there is one for this target."""
        return CostModel.pretrained(self.target)

    def _predict(self, op: OpSpec, cores: int) -> Prediction | None:
        """The time of a call on `cores` cores, or on the whole of a device; None where neither knows the operator."""
        options = matches(op, self.target) if op.is_static else []
        if not options:
            return None
        tried = self.records.tried(op, options)
        factors = dict(zip(tried, idle_factors(op, self.target, list(tried)), strict=True)) if tried else {}
        best = best_of(tried.values(), factors)
        if best is not None and best.seconds is not None:
            return Prediction(self._on(cores, best.seconds, factors.get(best.point, 1.0)), RECORD, RECORD_ERROR)
        if self.model is None:
            return None
        points = points_of(op, self.target)
        try:
            seconds = self.model.predict(op, points) * idle_factors(op, self.target, points)
        except KeyError:  # a template of another package
            return None
        return Prediction(self._on(cores, float(seconds.min()), 1.0), COST_MODEL, COST_MODEL_ERROR)

    def _on(self, cores: int, seconds: float, imbalance: float) -> float:
        """Times of one core are shared out; the imbalance is known for the target's own number of cores."""
        if not self.target.timed_on_one_core or cores == 1:
            return seconds
        return seconds / cores * (imbalance if cores == self.target.spec.cores else 1.0)


def target_times(cluster: Cluster, ops: Mapping[str, OpSpec], records: Records = None) -> Predictor:
    """Predicts operators whose OpSpecs are in `ops` (by text) on those devices of `cluster` that name a target.

    TargetError if there is no such target. It knows nothing of other operators and devices.
    """
    library = RecordLibrary.of(records)
    by_name = {d.target: TargetTimes(find_target(d.target), library) for d in cluster.devices if d.target}

    def predict(node: WorkNode, device: Device) -> Prediction | None:
        op = ops.get(node.spec)
        return by_name[device.target].predict(op, device.cores) if op is not None and device.target else None

    return predict


def recorded_ops(cluster: Cluster, records: Records = None) -> dict[str, OpSpec]:
    """The OpSpecs, by text, of all operators that there are records of on the cluster's targets.

    An artifact names its operators by texts only, which cannot be read back.
    """
    library = RecordLibrary.of(records)
    keys = {find_target(d.target).spec.key for d in cluster.devices if d.target}
    return {str(r.op): r.op for store in library.stores for key in keys for r in store.read(key)[0]}
