"""Operators of whole models on random shapes: C and RTL simulation against numpy, cycles against the model."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kompilo.compiler.errors import KompiloError
from kompilo.compiler.schedule.requantize import requantize
from kompilo.compiler.schedule.template import Config
from kompilo.targets.fpga.kernel.interpret import interpret
from kompilo.targets.fpga.kernel.model import estimate
from kompilo.targets.fpga.presets import DSP48E2, DSP58, fpga_spec
from kompilo.targets.fpga.sim.case import Case
from kompilo.targets.fpga.templates.activation import Activation, ActivationProblem
from kompilo.targets.fpga.templates.depthwise_int import DepthwiseInt
from kompilo.targets.fpga.templates.float_math import ERRORS, FUNCTIONS, Numpy
from kompilo.targets.fpga.templates.gemm_int import GemmInt, GemmProblem
from kompilo.targets.fpga.templates.gemv_block import BlockProblem, GemvBlock, compress_blocks
from kompilo.targets.fpga.templates.gemv_dequant import DequantProblem, GemvDequant
from kompilo.targets.fpga.templates.layer_norm import KINDS, LayerNorm, NormProblem
from kompilo.targets.fpga.templates.requantize import Requantize, RequantizeProblem
from kompilo.targets.fpga.templates.row_sums import RowsProblem
from kompilo.targets.fpga.templates.softmax import Softmax
from kompilo.targets.fpga.templates.table_int import EXACT, TableInt, TableProblem, activation_table
from kompilo.targets.fpga.templates.window import Picture

from fpga_cases import check_c, check_rtl, random_inputs, template_cases


def up_to(rng, most: int, least: int = 1) -> int:
    return int(rng.integers(least, most, endpoint=True))


def one_of(rng, choices) -> str:
    return list(choices)[int(rng.integers(len(choices)))]


def picture(rng) -> Picture:
    kh, kw = up_to(rng, 3), up_to(rng, 3, 2)
    return Picture(up_to(rng, 8, 3), up_to(rng, 8, 3), up_to(rng, 5), kh, kw, up_to(rng, 2), up_to(rng, kw // 2, 0))


def requantized(rng) -> RequantizeProblem:
    low, high = sorted(rng.integers(-128, 128, 2).tolist()) if rng.random() < 0.5 else (0, 127)
    return RequantizeProblem(up_to(rng, 9), up_to(rng, 9), low, high, bool(rng.integers(2)))


def fixed_points(kernel, rng):
    """Sums of all sizes; multipliers of 31 bits and 0; shifts over their whole range, mostly such that halves occur."""
    inputs = random_inputs(kernel, rng)
    channels = len(inputs["M"])
    inputs["A"] >>= rng.integers(0, 31, inputs["A"].shape, dtype=np.int32)
    inputs["A"].flat[0] = rng.choice([-(2**31), 2**31 - 1])
    multipliers = [0, 2**30, 3 * 2**29, 2**31 - 1, *rng.integers(2**30, 2**31, 2)]
    inputs["M"] = rng.choice(multipliers, channels).astype(np.int32)
    inputs["S"] = rng.choice([1, 2, 29, 30, 31, 32, 35, 40, 62], channels).astype(np.uint8)
    return inputs


def with_edges(kernel, rng):
    """Large, small, huge and infinite numbers; positive ones for what is defined for these alone."""
    inputs = {name: (array * 8).astype(np.float32) for name, array in random_inputs(kernel, rng).items()}
    a = inputs["A"]
    a[: len(a) // 3] *= np.float32(12)
    a[-1] = rng.choice([0.0, -0.0, 3e38, -3e38, 88.71, -87.32, -87.34, 1e-30])
    return inputs


def positive(kernel, rng):
    return {"A": np.exp2(rng.uniform(-120, 99, kernel.role("in")[0].shape)).astype(np.float32)}


def scores(kernel, rng):
    """Numbers far apart, some masked."""
    x = random_inputs(kernel, rng)["X"] * np.float32(25)
    masked = rng.random(x.shape) < 0.2
    masked[:, rng.integers(x.shape[1])] = False
    return {"X": np.where(masked, np.float32(-np.inf), x)}


def blocks(rng) -> BlockProblem:
    kept, group = ((1, 4), (2, 4), (1, 2), (3, 3))[int(rng.integers(4))]
    rows, columns = up_to(rng, 2), up_to(rng, 2)
    return BlockProblem(rows * up_to(rng, 4), group * columns * up_to(rng, 5), kept, group, rows, columns)


def table(rng) -> TableProblem:
    return TableProblem(up_to(rng, 200), tuple(rng.integers(-128, 128, 256).tolist()))


def dequant(rng) -> DequantProblem:
    return DequantProblem(
        up_to(rng, 14), up_to(rng, 3), up_to(rng, 9), int(rng.choice([4, 8])), one_of(rng, ["int8", "float32"])
    )


ROOTS = ("reciprocal", "rsqrt")
SMOOTH = [kind for kind in FUNCTIONS if kind not in ROOTS]


def activation(kinds):
    return lambda rng: ActivationProblem(up_to(rng, 30, 3), one_of(rng, kinds))


def dsp58(rng) -> GemmProblem:
    return GemmProblem(up_to(rng, 7), up_to(rng, 7), up_to(rng, 14, 3))


# name: template, problems, lanes at most, inputs, how many shapes
OPERATORS = {
    "depthwise": (DepthwiseInt(), picture, 2, random_inputs, 20),
    "requantize": (Requantize(), requantized, 3, fixed_points, 20),
    "table": (TableInt(), table, 2, random_inputs, 20),
    "dequant": (GemvDequant(), dequant, 4, random_inputs, 20),
    "block sparse": (GemvBlock(), blocks, 2, random_inputs, 20),
    "gemm dsp58": (GemmInt(), dsp58, 6, random_inputs, 20),
    "activation": (Activation(), activation(SMOOTH), 1, with_edges, 18),
    "root": (Activation(), activation(ROOTS), 2, positive, 2),
    "softmax": (Softmax(), lambda rng: RowsProblem(up_to(rng, 6), up_to(rng, 25)), 1, scores, 20),
    "layer_norm": (
        LayerNorm(),
        lambda rng: NormProblem(up_to(rng, 6), up_to(rng, 25), 1e-5, one_of(rng, KINDS)),
        2, random_inputs, 20,
    ),
}  # fmt: skip


def make_cases(name: str, count: int | None = None) -> list[Case]:
    template, problems, most, prepare, usual = OPERATORS[name]
    spec = fpga_spec("v80" if name == "gemm dsp58" else "u280")

    def configs(template, problem):
        wide = {c: np.prod([v for k, v in c.knobs if k not in ("im", "pack")]) for c in template.space(problem, spec)}
        return [c for c, lanes in wide.items() if lanes <= most and (name != "gemm dsp58" or c.int("pack") == 3)]

    rng = np.random.default_rng(list(OPERATORS).index(name))
    return template_cases(template, problems, configs, count or usual, rng, prepare)


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return [case for name in OPERATORS for case in make_cases(name)]


def test_c_simulation(cases, tmp_path):
    check_c(cases, tmp_path)


def test_rtl_simulation(cases, tmp_path):
    check_rtl(cases, tmp_path)


@pytest.mark.parametrize("name", OPERATORS)
def test_the_reference_interpreter(name):
    for case in make_cases(name, 3):
        found = interpret(case.kernel, case.inputs)
        for output, expected in case.expected.items():
            np.testing.assert_array_equal(found[output], expected)


def exact(kind: str, x: np.ndarray) -> np.ndarray:
    functions = {**EXACT, "reciprocal": lambda v: 1 / v, "rsqrt": lambda v: 1 / math.sqrt(v)}
    return np.array([functions[kind](float(v)) for v in x])


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_functions_are_as_exact_as_stated(kind):
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(-87.3, 88.7, 4000), rng.normal(0, 2, 4000), rng.normal(0, 0.01, 1000)])
    x = np.exp2(rng.uniform(-125, 100, 5000)) if kind in ROOTS else x
    x = x.astype(np.float32)
    true, found = exact(kind, x), FUNCTIONS[kind](Numpy(), x).astype(np.float64)
    scale = np.abs(true) if kind in ("exp", *ROOTS) else np.maximum(1, np.abs(true))
    worst = (np.abs(found - true) / scale).max()
    assert worst <= ERRORS[kind]
    assert worst >= ERRORS[kind] / 4  # the bound says something


def test_where_functions_end():
    x = np.array([-np.inf, -1e30, -87.34, 88.73, 1e30, np.inf], np.float32)
    found = {kind: FUNCTIONS[kind](Numpy(), x).tolist() for kind in SMOOTH}
    assert found["exp"] == [0, 0, 0, math.inf, math.inf, math.inf]
    np.testing.assert_allclose(found["sigmoid"], [0, 0, 0, 1, 1, 1], atol=1e-30)
    assert found["tanh"] == [-1, -1, -1, 1, 1, 1]
    for kind in ("gelu", "gelu_tanh", "silu"):
        np.testing.assert_allclose(found[kind][1:5], [0, 0, x[3], x[4]], atol=1e-5 if kind != "silu" else 1e-4)


def test_normalised_rows_are_near_the_exact_ones():
    rng = np.random.default_rng(1)
    x = (rng.standard_normal((40, 300)) * 6).astype(np.float32)
    config, wide = Config.of(lanes=4), x.astype(np.float64)
    powers = np.exp(wide - wide.max(1, keepdims=True))
    found = Softmax().expected(RowsProblem(40, 300), config, {"X": x})["Y"]
    np.testing.assert_allclose(found, powers / powers.sum(1, keepdims=True), atol=3e-7, rtol=2e-6)
    gain, bias = rng.standard_normal((2, 300)).astype(np.float32)
    for kind in KINDS:
        inputs = {"X": x + np.float32(3), "G": gain, **({"B": bias} if kind == "layer" else {})}
        centred = inputs["X"].astype(np.float64) - (inputs["X"].mean(1, keepdims=True) if kind == "layer" else 0)
        true = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5) * gain + (bias if kind == "layer" else 0)
        found = LayerNorm().expected(NormProblem(40, 300, 1e-5, kind), config, inputs)["Y"]
        np.testing.assert_allclose(found, true, atol=5e-6)


def test_dequantised_products_are_near_the_exact_ones():
    rng = np.random.default_rng(2)
    for activations in ("float32", "int8"):
        problem = DequantProblem(32, 8, 64, 4, activations)
        kernel = GemvDequant().build(problem, Config.of(um=1, uk=4, im=5))
        inputs = random_inputs(kernel, rng)
        wide = {name: array.astype(np.float64) for name, array in inputs.items()}
        true = np.einsum("rgk,gk,rg->r", wide["W"], wide["X"], wide["S"])
        found = GemvDequant().expected(problem, Config.of(um=1, uk=4, im=5), inputs)["Y"]
        np.testing.assert_allclose(found, true, rtol=1e-4, atol=1e-3 * np.abs(true).max())


def test_requantisation_is_that_of_the_compiler():
    problem, rng = RequantizeProblem(50, 8), np.random.default_rng(3)
    inputs = fixed_points(Requantize().build(problem, Config.of(lanes=1)), rng)
    found = Requantize().reference(problem, inputs)["Y"]
    total = (inputs["A"].astype(np.int64) + inputs["B"]).astype(np.int32)
    assert (found == requantize(total, inputs["M"], inputs["S"].astype(np.int32), -128, 127)).all()
    halves = RequantizeProblem(1, 4, bias=False)
    inputs = {
        "A": np.array([[3, -3, 5, -5]], np.int32),
        "M": np.full(4, 2**30, np.int32),
        "S": np.full(4, 31, np.uint8),
    }
    assert Requantize().reference(halves, inputs)["Y"].tolist() == [[2, -1, 3, -2]]


def test_tables_of_activations():
    for kind in EXACT:
        values = activation_table(kind, 0.05, 0.01 if kind in ("sigmoid", "tanh") else 0.05)
        assert len(values) == 256
        assert min(values) >= -128
        assert max(values) <= 127
    assert activation_table("relu", 0.5, 0.25)[:3] == (0, 2, 4)
    assert activation_table("relu", 0.5, 0.25)[128:] == (0,) * 128  # negative numbers
    assert activation_table("relu", 0.25, 0.5)[1:4] == (0, 1, 2)  # 0.5 and 1.5 go to the even number


def test_defaults_start_an_iteration_every_cycle_and_fit_the_part():
    problems = [
        (DepthwiseInt(), Picture(16, 16, 8, 3, 3, 1, 1)),
        (Requantize(), RequantizeProblem(64, 32)),
        (Activation(), ActivationProblem(200, "gelu")),
        (Softmax(), RowsProblem(16, 128)),
        (Softmax(), RowsProblem(2, 3)),
        (LayerNorm(), NormProblem(16, 100)),
        (GemvDequant(), DequantProblem(256, 4, 32, 4)),
        (GemvDequant(), DequantProblem(256, 4, 32, 8, "int8")),
    ]
    for template, problem in problems:
        for spec in (fpga_spec("ecp5"), fpga_spec("kv260")):
            made = estimate(template.build(problem, template.space(problem, spec).default))
            assert set(made.iis) == {1}, template.name
            assert made.dsps(spec.dsp) <= spec.budget("dsp"), (template.name, spec.key)


def test_constant_factors_take_as_many_blocks_as_their_significand_needs():
    """The counts are those that yosys maps."""
    blocks = {"exp": 17, "sigmoid": 25, "tanh": 25, "gelu": 45, "rsqrt": 12, "reciprocal": 8, "relu": 0}
    kernels = {kind: Activation().build(ActivationProblem(50, kind), Config.of(lanes=1)) for kind in blocks}
    assert {kind: estimate(kernel).dsps(DSP48E2) for kind, kernel in kernels.items()} == blocks


def test_block_sparse_weights_are_the_matrix_and_save_their_cycles():
    rng, cycles = np.random.default_rng(4), {}
    for kept in (4, 2, 1):
        problem = BlockProblem(64, 512, kept, 4, 4, 4)
        grouped = rng.integers(-128, 128, (16, 4, 32, 4, 4), dtype=np.int8)
        places = rng.permuted(np.tile(np.arange(4), (16, 32, 1)), axis=2)
        matrix = np.where((places < kept)[:, None, :, :, None], grouped, np.int8(0)).reshape(64, 512)
        values, found = compress_blocks(matrix, problem)
        x = rng.integers(-128, 128, 512, dtype=np.int8)
        y = GemvBlock().reference(problem, {"V": values, "I": found, "X": x.reshape(32, 4, 4)})["Y"]
        assert (y.ravel() == matrix.astype(np.int32) @ x).all()
        made = estimate(GemvBlock().build(problem, Config.of(strips=1, groups=4 // kept)))
        assert made.dsps(DSP48E2) == 64
        cycles[kept] = made.cycles
        if kept > 1:
            with pytest.raises(KompiloError, match=f"expected 1 blocks of 4 at most, found {kept}"):
                compress_blocks(matrix, BlockProblem(64, 512, 1, 4, 4, 4))
    assert cycles[4] / cycles[2] > 1.85
    assert cycles[4] / cycles[1] > 3.4


def test_three_products_per_dsp58():
    problem, spec = GemmProblem(16, 16, 96), fpga_spec("v80")
    config = Config.of(um=4, un=4, uk=6, pack=3)
    assert config in tuple(GemmInt().space(problem, spec))
    made = estimate(GemmInt().build(problem, config))
    assert (made.dsps(DSP58), made.dsps(DSP48E2)) == (32, 96)
    assert 16 * 16 * 96 / (3 * made.dsps(DSP58) * made.cycles) > 0.9
    assert all(c.int("pack") < 3 for c in GemmInt().space(problem, fpga_spec("u280")))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Activation().build(ActivationProblem(4, "erf"), Config.of(lanes=1)), "one of exp, sigmoid, .*'erf'"),
        (lambda: activation_table("erf", 1.0, 1.0), "one of relu, exp, sigmoid.*, found 'erf'"),
        (lambda: Requantize().build(RequantizeProblem(2, 2, 0, 300), Config.of(lanes=1)), "found low 0, high 300"),
        (lambda: LayerNorm().build(NormProblem(2, 2, 0.0), Config.of(lanes=1)), "at least 1e-37, found 'layer', 0.0"),
        (lambda: GemvDequant().build(DequantProblem(2, 2, 2, 3), Config.of(um=1, uk=1, im=1)), "8 bits, .*found 3"),
        (
            lambda: GemvDequant().build(DequantProblem(2, 2, 257, 8, "int8"), Config.of(um=1, uk=1, im=1)),
            "sums of a group of 2.22 at most",
        ),
        (
            lambda: GemmInt().build(GemmProblem(4, 4, 8), Config.of(um=1, un=1, uk=4, pack=3)),
            "a multiple of 3 as uk, found 4",
        ),
        (lambda: GemvBlock().build(BlockProblem(6, 16), Config.of(strips=1, groups=1)), "expected whole blocks"),
        (lambda: Softmax().build(RowsProblem(0, 3), Config.of(lanes=1)), "sizes above 0, found {'rows': 0}"),
    ],
)  # fmt: skip
def test_errors(make, message):
    with pytest.raises(KompiloError, match=message):
        make()
