"""A MetaSchedule session over given operators; prints "ready", then a line of JSON for each measured candidate.

    python benchmarks/metaschedule_worker.py < OPERATORS.json

`tuners.py` starts it as a process of its own and ends it when the time is up, which counts from "ready" on: all is
imported then. Operators are convolutions and matmuls with constant weights, which MetaSchedule may lay out as it likes,
like Kompilo's templates. Needs `pip install 'kompilo[meta]'`.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from typing import Any

import tvm
from tvm import te, topi
from tvm.ir.utils import derived_object
from tvm.s_tir import meta_schedule as ms

# MetaSchedule imports them when it first needs them; reading those of GPUs takes 15 s and more.
from tvm.s_tir import tensor_intrin  # noqa: F401
from tvm.tirx import PrimFunc

# MetaSchedule measures 64 candidates of an operator before it looks at the next one. With several operators and a
# budget of minutes that would leave most of them unmeasured: fewer are kinder to it. Before each round it breeds four
# generations of 512 programs, whatever the number that it measures: 84 s on two busy cores.
TRIALS_PER_ROUND = 8


def main() -> None:
    """Tune what standard input describes until killed."""
    asked = json.load(sys.stdin)
    target = tvm.target.Target(asked["target"])
    names = [f"operator{k}" for k in range(len(asked["operators"]))]
    began = time.monotonic()
    print("ready", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        seeds = ms.utils.fork_seed(asked["seed"], n=len(names))
        contexts = [
            ms.TuneContext(
                mod=prim_func(operator),
                target=target,
                space_generator="post-order-apply",
                search_strategy="evolutionary",
                task_name=name,
                rand_state=seed,
                num_threads=asked["cores"],
            )
            for name, operator, seed in zip(names, asked["operators"], seeds, strict=True)
        ]
        ms.tune_tasks(
            tasks=contexts,
            task_weights=[operator["calls"] for operator in asked["operators"]],
            work_dir=folder,
            max_trials_global=1_000_000,
            num_trials_per_iter=TRIALS_PER_ROUND,
            measure_callbacks=[
                Report(began),  # type: ignore[list-item]
                ms.measure_callback.AddToDatabase(),
                ms.measure_callback.RemoveBuildArtifact(),
                ms.measure_callback.UpdateCostModel(),
            ],
        )


def prim_func(operator: dict[str, Any]) -> PrimFunc:
    """The operator as MetaSchedule takes it; shapes of convolutions are NHWC and HWIO."""
    lhs, weight = (te.placeholder(shape, "float32", name) for shape, name in zip(operator["shapes"], "xw", strict=True))
    if operator["kind"] == "conv2d":
        window = operator["strides"], operator["padding"], operator["dilation"]
        result = topi.nn.conv2d(lhs, weight, *window, data_layout="NHWC", kernel_layout="HWIO")
    else:
        result = topi.matmul(lhs, weight)
    return te.create_prim_func([lhs, weight, result]).with_attr("layout_free_buffers", [1])


@derived_object
class Report(ms.measure_callback.PyMeasureCallback):  # type: ignore[misc]
    """Prints what was measured: seconds since the start, the operator's place, the candidate's seconds or null.

    Why a candidate failed goes to standard error.
    """

    def __init__(self, began: float):
        super().__init__()
        self.began = began

    def apply(
        self,
        task_scheduler: Any,
        task_id: int,
        measure_candidates: Any,
        builder_results: Any,
        runner_results: Any,
    ) -> None:
        """Called by MetaSchedule after each round."""
        now = time.monotonic() - self.began
        for built, ran in zip(builder_results, runner_results, strict=True):
            times = [float(t) for t in ran.run_secs] if ran.run_secs else []
            if not times:
                print(f"operator {task_id}: {built.error_msg or ran.error_msg}", file=sys.stderr, flush=True)
            print(json.dumps([now, int(task_id), statistics.median(times) if times else None]), flush=True)


if __name__ == "__main__":
    main()
