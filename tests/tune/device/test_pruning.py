"""What machine code takes of a GPU: read, turned into features, and reasons against running it."""

from __future__ import annotations

import numpy as np
import pytest

from kompilo.compiler.device_code import Usage
from kompilo.compiler.schedule.op_spec import OpSpec, TensorType
from kompilo.compiler.tune.cost_model import CostModel
from kompilo.compiler.tune.device.candidate import build_device_kernel, default_point
from kompilo.compiler.tune.device.pruning import MOST_SPILLED, reason_against
from kompilo.compiler.tune.features import FEATURE_NAMES, feature_names, features
from kompilo.compiler.tune.record import Measurement, Record
from kompilo.compiler.tune.task import points_of
from kompilo.targets.cuda.target import CudaTarget
from kompilo.targets.rocm.target import RocmTarget

from shim_target import matmul


def square() -> OpSpec:
    """(64, 64) x constant (64, 64)."""
    types = tuple(TensorType((64, 64), "float32") for _ in range(3))
    return OpSpec("matmul", types[:2], (False, True), matmul().attrs, types[2], types[2])


USED = Usage(registers=64, spill_bytes=0, shared_bytes=16384, occupancy=0.5, limit="registers")


@pytest.mark.parametrize(
    ("used", "best", "only", "reason"),
    [
        (USED, None, False, None),
        ({"spill_bytes": MOST_SPILLED}, None, False, None),
        ({"spill_bytes": MOST_SPILLED + 4}, None, False, "each thread keeps 68 bytes in memory that do not fit its 64"),
        ({"spill_bytes": 400}, None, True, None),
        ({"shared_bytes": 200_000}, None, True, "a block takes 200000 bytes of shared memory, the GPU gives at most"),
        ({"occupancy": 0.0}, None, True, "a block does not fit the GPU, which has too few registers for it."),
        ({"occupancy": 0.12}, USED, False, "it fills 12% of an SM (registers allow no more), the fastest so far 50%."),
        ({"occupancy": 0.13}, USED, False, None),
        ({"occupancy": 0.12}, USED, True, None),
    ],
)
def test_reasons(used, best, only, reason):
    found = reason_against(used if isinstance(used, Usage) else Usage(**{**vars(USED), **used}), 163 << 10, best, only)
    assert (found is None) == (reason is None)
    assert (found or "").startswith(reason or "")


@pytest.mark.parametrize("target", [CudaTarget.from_preset("sm_80"), RocmTarget.from_preset("gfx942")])
def test_what_is_estimated_and_what_the_code_says(target):
    """The estimate of registers is an upper bound, or near it; shared memory is known exactly."""
    op = square()
    kernel = build_device_kernel(op, default_point(op, target), target)
    used = kernel.usage
    assert used is not None
    point, names = default_point(op, target), feature_names(target)
    before, after = features(op, target, [point])[0], features(op, target, [point], {point: used})[0]
    changed = {names[k] for k in np.flatnonzero(~((before == after) | (np.isnan(before) & np.isnan(after))))}
    assert "device.spills" in changed
    assert changed <= {"device.spills", "device.registers", "device.occupancy", "device.block_bytes"}
    told = dict(zip(names, after, strict=True))
    assert (told["device.spills"], told["device.registers"]) == (0, used.registers)
    assert told["device.occupancy"] == np.float32(used.occupancy) > 0
    estimated = before[names.index("device.block_bytes")]
    assert 0 < estimated <= used.shared_bytes <= estimated + 64


def test_processors_keep_their_features_and_gpus_learn_from_their_code():
    target = CudaTarget.from_preset("sm_80")
    op = matmul()
    points = points_of(op, target)
    assert feature_names(target)[: len(FEATURE_NAMES)] == FEATURE_NAMES

    def measured(k: int) -> Record:
        # What decides here is what only the code tells.
        spills = 64 * (k % 2)
        usage = Usage(40, spills, 4096, 0.5, "registers")
        return Record(op, target.spec.key, points[k], Measurement("ok", 1e-5 * (1 + spills), samples=5, usage=usage))

    records = [measured(k) for k in range(len(points))]
    assert [Record.from_line(r.to_line()) for r in records] == records
    model = CostModel.fit(records, target)
    rows = features(op, target, points, {r.point: r.measurement.usage for r in records})
    fast, slow = (model.ranking.predict(rows)[k::2] for k in (0, 1))
    assert fast.mean() < slow.mean() - 0.08


def test_the_plain_estimate_is_that_of_the_templates():
    """Without records, a session measures first what the templates think best."""
    target = CudaTarget.from_preset("sm_80")
    op = matmul()
    points = points_of(op, target)
    times = CostModel(target).predict(op, points)
    assert np.isfinite(times).all()
    assert times[0] < times[-1]
    assert (np.diff(times) >= 0).all()
