"""Matmul kernels against float64: odd and symbolic shapes, batches, permuted operands and results."""

from __future__ import annotations

import numpy as np
import pytest

from kompilo.compiler.schedule.op_spec import Step
from kompilo.targets.gpu.templates.matmul_simt import MatmulSimt

from gpu_support import TARGET, matmul, needs_opencl, relative_error, run_template, spread

SIZES = {"b": 2, "m": 45, "k": 19, "n": 33}


BIAS_RELU = (Step("add", ("anchor", "i2"), "float32"), Step("nn.relu", ("s0",), "float32"))
CASES = {
    "square": (matmul((64, 64), (64, 64), (64, 64)), lambda a, b: a @ b),
    "odd": (matmul((33, 17), (17, 65), (33, 65)), lambda a, b: a @ b),
    "packed": (matmul((33, 17), (17, 10), (33, 10), constant=True), lambda a, b: a @ b),
    "packed_transposed": (matmul((40, 24), (30, 24), (40, 30), True, rhs=(1, 0)), lambda a, b: a @ b.T),
    "epilogue": (
        matmul((128, 96), (96, 200), (128, 200), True, steps=BIAS_RELU, extra=((200,),)),
        lambda a, b, c: np.maximum(a @ b + c, 0),
    ),
    "collapsed": (matmul((2, 25, 36), (36, 20), (2, 25, 20), True), lambda a, b: a @ b),
    "scores": (
        matmul((2, 50, 4, 32), (2, 50, 4, 32), (2, 4, 50, 50), lhs=(0, 2, 1, 3), rhs=(0, 2, 3, 1)),
        lambda a, b: a.transpose(0, 2, 1, 3) @ b.transpose(0, 2, 3, 1),
    ),
    "context": (
        matmul((2, 4, 50, 50), (2, 50, 4, 32), (2, 4, 50, 32), rhs=(0, 2, 1, 3), out=(0, 2, 1, 3)),
        lambda a, b: (a @ b.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3),
    ),
    "transposed_left": (matmul((36, 48), (36, 20), (48, 20), lhs=(1, 0)), lambda a, b: a.T @ b),
    "symbolic_rows": (matmul(("m", 37), (37, 24), ("m", 24)), lambda a, b: a @ b),
    "symbolic": (matmul(("b", 5, "m", "k"), ("b", 1, "k", "n"), ("b", 5, "m", "n")), lambda a, b: a @ b),
}


@needs_opencl
@pytest.mark.parametrize("name", CASES)
def test_matmul(name):
    op, compute = CASES[name]
    rng = np.random.default_rng(0)
    shapes = [[SIZES[d] if isinstance(d, str) else d for d in t.shape] for t in op.inputs]
    inputs = [rng.standard_normal(s).astype("f4") for s in shapes]
    want = compute(*(x.astype("f8") for x in inputs))
    for config in spread(list(MatmulSimt().match(op, TARGET.spec)), 3):
        assert relative_error(run_template(MatmulSimt(), op, inputs, want.shape, config), want) < 3e-6, str(config)


def test_thin_matrices_are_left_to_reductions():
    assert MatmulSimt().match(matmul((1, 64), (64, 1000), (1, 1000), constant=True), TARGET.spec) is None


def test_configs_fit_the_gpu():
    op, _ = CASES["epilogue"]
    space = MatmulSimt().match(op, TARGET.spec)
    assert len(space.configs) > 8
    for config in space:
        threads = config.int("bm") // config.int("tm") * (config.int("bn") // config.int("tn"))
        assert 32 <= threads <= TARGET.spec.threads_per_block
        assert config.int("tm") * config.int("tn") < TARGET.spec.registers_per_thread
