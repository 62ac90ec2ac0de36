"""How wrong the predictions are that plans rest on: the roofline and the cost model against measured times.

    python benchmarks/plan_errors.py [TARGET]

Operators are those that records of TARGET (default cpu:cascadelake) know. Times are of the best config. Every second
operator sets the part of the roofline that its kind reaches; the errors are of the others. The cost model is trained
without a quarter of the operators, and predicts those, four times. Errors are |predicted / measured - 1|.
"""

from __future__ import annotations

import sys
from statistics import median

import numpy as np

from kompilo.compiler.plan.cluster import Device
from kompilo.compiler.plan.work import WorkNode, by_roofline
from kompilo.compiler.schedule.flops import bytes_moved, flops
from kompilo.compiler.schedule.op_spec import OpSpec
from kompilo.compiler.schedule.target import Target, find_target
from kompilo.compiler.tune.cost_model import NOMINAL_HERTZ, CostModel
from kompilo.compiler.tune.examples import Example, examples_of
from kompilo.compiler.tune.features import ideal_cycles
from kompilo.compiler.tune.library import RecordLibrary

FOLDS = 4
# Bytes a second that a core gets from memory.
MEMORY = 10e9


def roofline_errors(target: Target, best: dict[OpSpec, float]) -> list[float]:
    """Errors of the roofline of one core with the part of it that other operators of the kind reach."""
    peak = max((flops(op) or 0) / ideal_cycles(op, target.spec) for op in best) * NOMINAL_HERTZ
    plain = Device("core", "core", peak, MEMORY, 1e12)
    nodes = {op: WorkNode("n", op.kind, float(flops(op) or 0), float(bytes_moved(op) or 0)) for op in best}
    ratios = {op: by_roofline(nodes[op], plain).seconds / seconds for op, seconds in best.items()}
    told, asked = list(best)[::2], list(best)[1::2]
    kinds = {kind: [ratios[op] for op in told if op.kind == kind] for kind in {op.kind for op in told}}
    return [abs(ratios[op] / median(kinds[op.kind]) - 1) for op in asked if op.kind in kinds]


def model_errors(target: Target, examples: list[Example]) -> list[float]:
    """Errors of the best predicted time of operators that the cost model was not trained on."""
    found = []
    for fold in range(FOLDS):
        model = CostModel.of_examples([e for k, e in enumerate(examples) if k % FOLDS != fold], target)
        for example in examples[fold::FOLDS]:
            predicted = float(model.predict(example.op, example.points).min())
            found.append(abs(predicted / float(example.seconds.min()) - 1))
    return found


def main() -> None:
    """Print median and other quantiles of both."""
    target = find_target(sys.argv[1] if len(sys.argv) > 1 else "cpu:cascadelake")
    records = [r for store in RecordLibrary.of(None).stores for r in store.read(target.spec.key)[0]]
    examples = [e for e in examples_of(records, target) if len(e.points) > 1]
    best = {e.op: float(e.seconds.min()) for e in examples if flops(e.op)}
    print(f"{target.spec.key}: {len(best)} operators")
    for name, errors in (("roofline", roofline_errors(target, best)), ("cost model", model_errors(target, examples))):
        quantiles = ", ".join(f"{q}% {np.percentile(errors, q):.1%}" for q in (50, 75, 90))
        print(f"{name}: {len(errors)} operators, {quantiles}")


if __name__ == "__main__":
    main()
