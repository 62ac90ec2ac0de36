"""What a call and a load cost beyond the model's own work.

    python benchmarks/call_overhead.py [--seconds 2]

Calls: a model of two operators on a 4x8 input, against ONNX Runtime if it is installed; the runtimes take turns and the
least time of many short batches counts. Loads: a fresh process imports kompilo, loads a model with 100 MB of weights
(fully connected, as many as ResNet-50 has) and runs it once; the median of several processes, and the resident memory.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from timeit import Timer
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import kompilo

BATCH = 500  # calls timed together
LOADS = 5
FIRST_RESULT = """
import time; start = time.perf_counter()
import sys, kompilo
model = kompilo.load(sys.argv[1], threads=1)
import numpy as np
model(np.zeros((1, 512), np.float32))
seconds = time.perf_counter() - start
resident = next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]
print(seconds, int(resident) / 1024)
"""


def main() -> None:
    """Print both tables as markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="time spent on calls")
    options = parser.parse_args()
    print("| call of a two-operator model | us |\n|---|---|")
    for name, best in measure_calls(two_operators(), options.seconds).items():
        print(f"| {name} | {best:.2f} |")
    seconds, resident = measure_loads(fully_connected(100))
    print("\n| 100 MB of weights, from the start of Python's first line | |\n|---|---|")
    print(f"| import, load and first result | {seconds:.2f} s |\n| peak resident memory | {resident:.0f} MB |")


def two_operators() -> onnx.ModelProto:
    """z = (x + w) * w, float32[4, 8]."""
    weight = numpy_helper.from_array(np.full((4, 8), 3, np.float32), "w")
    nodes = [helper.make_node("Add", ["x", "w"], ["y"]), helper.make_node("Mul", ["y", "w"], ["z"])]
    return _model(nodes, (4, 8), (4, 8), [weight])


def fully_connected(layers: int) -> onnx.ModelProto:
    """`layers` products with 512x512 weights, 1 MB each."""
    rng = np.random.default_rng(0)
    values = [rng.standard_normal((512, 512)).astype(np.float32) / 23 for _ in range(layers)]
    weights = [numpy_helper.from_array(value, f"w{i}") for i, value in enumerate(values)]
    names = ["x", *[f"h{i}" for i in range(layers - 1)], "z"]
    nodes = [helper.make_node("MatMul", [names[i], f"w{i}"], [names[i + 1]]) for i in range(layers)]
    return _model(nodes, (1, 512), (1, 512), weights)


def measure_calls(model: onnx.ModelProto, seconds: float) -> dict[str, float]:
    """Least time of a call, in us, by way of calling."""
    x = np.ones((4, 8), np.float32)
    module = kompilo.load(kompilo.compile(model), threads=1)
    calls: dict[str, Callable[[], Any]] = {
        "kompilo, m(x)": lambda: module(x),
        'kompilo, m.run({"x": x})': lambda: module.run({"x": x}),
    }
    try:
        import onnxruntime
    except ImportError:
        print("onnxruntime is not installed", file=sys.stderr)
    else:
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(model.SerializeToString(), settings, ["CPUExecutionProvider"])
        calls['ONNX Runtime, run(None, {"x": x})'] = lambda: session.run(None, {"x": x})
    best = dict.fromkeys(calls, float("inf"))
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, call in calls.items():
            best[name] = min(best[name], Timer(call).timeit(BATCH) / BATCH * 1e6)
    return best


def measure_loads(model: onnx.ModelProto) -> tuple[float, float]:
    """Median seconds to the first result in a fresh process, and the largest resident memory in MB."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.kpo"
        kompilo.compile(model).save(path)
        command = [sys.executable, "-c", FIRST_RESULT, str(path)]
        outputs = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(LOADS)]
    numbers = [[float(n) for n in output.split()] for output in outputs]
    return statistics.median(n[0] for n in numbers), max(n[1] for n in numbers)


def _model(
    nodes: list[onnx.NodeProto], x: tuple[int, ...], z: tuple[int, ...], weights: list[onnx.TensorProto]
) -> onnx.ModelProto:
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)]
    outputs = [helper.make_tensor_value_info("z", TensorProto.FLOAT, z)]
    graph = helper.make_graph(nodes, "overhead", inputs, outputs, weights)
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)])


if __name__ == "__main__":
    main()
