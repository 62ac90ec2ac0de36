"""What a kernel's launch costs the CPU: TVM's own runtime for CUDA, and the loader's way by Python for ROCm.

    python benchmarks/gpu_launches.py [--launches 100]

No GPU is used: the stand-ins of tests/gpu take the kernels and do nothing with them, so the table has the time between
two launches that the host takes, without what a real driver adds. Chains of products, one launch each, are timed with
one launch and with many; the difference is divided by the launches. Minima over 600 calls.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import kompilo

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from gpu.fake_cuda import environment

# Target, and what the stand-ins are told to be.
TARGETS = {
    "cuda:sm_80": {},
    "rocm:gfx1100": {"name": "AMD Radeon RX 7900 XTX", "gfx": "gfx1100"},
}
_CHILD = """
import sys, time, numpy as np, kompilo
best = []
for path in sys.argv[1:]:
    model, x, least = kompilo.load(path), np.zeros((4, 16), "f4"), 1e9
    for _ in range(600):
        start = time.perf_counter()
        model(x)
        least = min(least, time.perf_counter() - start)
    best.append(least)
print(best[1] - best[0])
"""


def chain(length: int) -> bytes:
    """`length` products of (4, 16) by one constant (16, 16)."""
    names = ["x", *(f"y{k}" for k in range(length))]
    nodes = [helper.make_node("MatMul", [a, "w"], [b]) for a, b in itertools.pairwise(names)]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 16]) for name in (names[0], names[-1]))
    weight = numpy_helper.from_array(np.eye(16, dtype="f4"), "w")
    model = helper.make_model(
        helper.make_graph(nodes, "chain", [x], [y], [weight]), opset_imports=[helper.make_opsetid("", 20)]
    )
    model.ir_version = 10
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def microseconds(target: str, launches: int, folder: Path) -> float:
    """Of the CPU for one launch."""
    paths = []
    for length in (1, launches + 1):
        paths.append(folder / f"{length}.kpo")
        kompilo.compile(chain(length), target=target, records=False).save(paths[-1])
    env = {**environment(**TARGETS[target]), "KOMPILO_CUDA_GRAPHS": "0"}
    command = [sys.executable, "-P", "-c", _CHILD, *map(str, paths)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return float(done.stdout) / launches * 1e6


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--launches", type=int, default=100)
    launches = parser.parse_args().launches
    print("| target | microseconds of the CPU for a launch |\n|---|---:|")
    for target in TARGETS:
        with tempfile.TemporaryDirectory() as folder:
            print(f"| `{target}` | {microseconds(target, launches, Path(folder)):.1f} |", flush=True)


if __name__ == "__main__":
    main()
