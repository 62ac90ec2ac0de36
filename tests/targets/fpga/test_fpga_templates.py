"""Templates on random shapes: C simulation and RTL simulation against numpy, cycles against the model."""

from __future__ import annotations

import numpy as np
import pytest

from kompilo.compiler.errors import KompiloError
from kompilo.compiler.schedule.template import Config
from kompilo.targets.fpga.kernel.interpret import interpret
from kompilo.targets.fpga.kernel.model import estimate
from kompilo.targets.fpga.presets import fpga_spec
from kompilo.targets.fpga.sim.case import Case
from kompilo.targets.fpga.templates.conv_int import ConvInt, ConvProblem
from kompilo.targets.fpga.templates.elementwise import KINDS, Elementwise, ElementwiseProblem
from kompilo.targets.fpga.templates.gemm_float import GemmFloat
from kompilo.targets.fpga.templates.gemm_int import GemmInt, GemmProblem
from kompilo.targets.fpga.templates.gemv_sparse import GemvSparse, SparseProblem, compress
from kompilo.targets.fpga.templates.pool import Pool, PoolProblem
from kompilo.targets.fpga.templates.window import Picture

from fpga_cases import check_c, check_rtl, template_cases

SHAPES = {"gemm fp16": 6}  # 20 of the others


def up_to(rng, most: int, least: int = 1) -> int:
    return int(rng.integers(least, most, endpoint=True))


def gemm(dtype):
    return lambda rng: GemmProblem(up_to(rng, 9), up_to(rng, 12), up_to(rng, 12), dtype)


def picture(rng, kernel: int) -> Picture:
    stride, pad = up_to(rng, 2), up_to(rng, kernel // 2, 0)
    return Picture(up_to(rng, 8, kernel), up_to(rng, 8, kernel), up_to(rng, 5), kernel, kernel, stride, pad)


def conv(kernel):
    return lambda rng: ConvProblem(picture(rng, kernel), up_to(rng, 5))


def pool(rng) -> PoolProblem:
    return PoolProblem(picture(rng, up_to(rng, 3, 2)), str(rng.choice(["max", "sum"])))


def elementwise(rng) -> ElementwiseProblem:
    dtype = str(rng.choice(["int8", "int32", "float32", "float16", "uint8"]))
    return ElementwiseProblem(up_to(rng, 90), str(rng.choice(KINDS)), dtype)


def sparse(rng) -> SparseProblem:
    kept, group = ((2, 4), (1, 4), (4, 4), (3, 8))[int(rng.integers(4))]
    return SparseProblem(up_to(rng, 12), group * up_to(rng, 6), kept, group)


# name: template, problems, most lanes of a config (what larger ones cost is time to compile, not other code)
TEMPLATES = {
    "gemm int8": (GemmInt(), gemm("int8"), 4),
    "gemm fp32": (GemmFloat(), gemm("float32"), 2),
    "gemm fp16": (GemmFloat(), gemm("float16"), 2),
    "conv 3x3": (ConvInt(), conv(3), 2),
    "conv 1x1": (ConvInt(), conv(1), 2),
    "pool": (Pool(), pool, 2),
    "sparse": (GemvSparse(), sparse, 4),
    "elementwise": (Elementwise(), elementwise, 4),
}


def lanes(config: Config) -> int:
    return int(np.prod([v for k, v in config.knobs if k not in ("im", "jn", "pack")]))


def make_cases(name: str, count: int) -> list[Case]:
    template, problems, most = TEMPLATES[name]
    rng = np.random.default_rng(list(TEMPLATES).index(name))

    def configs(template, problem):
        return [c for c in template.space(problem, fpga_spec("u280")) if lanes(c) <= most]

    return template_cases(template, problems, configs, count, rng)


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return [case for name in TEMPLATES for case in make_cases(name, SHAPES.get(name, 20))]


def test_c_simulation(cases, tmp_path):
    check_c(cases, tmp_path)


def test_rtl_simulation(cases, tmp_path):
    check_rtl(cases, tmp_path)


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_reference_interpreter(name):
    for case in make_cases(name, 4):
        found = interpret(case.kernel, case.inputs)
        for output, expected in case.expected.items():
            np.testing.assert_array_equal(found[output], expected)


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        (GemmInt(), GemmProblem(16, 24, 32)),
        (GemmFloat(), GemmProblem(16, 24, 32, "float32")),
        (ConvInt(), ConvProblem(Picture(16, 16, 8, 3, 3, 1, 1), 16)),
        (Pool(), PoolProblem(Picture(16, 16, 8, 3, 3, 2, 1))),
        (Elementwise(), ElementwiseProblem(256, "add_relu")),
    ],
)
def test_defaults_start_an_iteration_every_cycle(template, problem):
    spec = fpga_spec("zcu104")
    made = estimate(template.build(problem, template.space(problem, spec).default))
    assert set(made.iis) == {1}
    assert made.dsps(spec.dsp) <= spec.budget("dsp")


def test_what_lanes_do():
    problem = GemmProblem(16, 16, 64)
    one, many = (GemmInt().build(problem, Config.of(um=n, un=n, uk=n, pack=1)) for n in (1, 4))
    spec = fpga_spec("u280")
    assert [estimate(k).dsps(spec.dsp) for k in (one, many)] == [1, 64]
    assert estimate(one).cycles == pytest.approx(64 * estimate(many).cycles, rel=0.05)
    waiting, flowing = (
        estimate(GemmFloat().build(GemmProblem(8, 8, 16, "float32"), Config.of(un=1, im=im, jn=1))) for im in (1, 5)
    )
    assert (waiting.iis, flowing.iis) == ((5,), (1,))


def test_two_products_per_dsp_block_and_none_idle():
    problem, spec = GemmProblem(64, 64, 256), fpga_spec("u280")
    config = Config.of(um=8, un=8, uk=1, pack=2)
    assert config in tuple(GemmInt().space(problem, spec))
    made = estimate(GemmInt().build(problem, config))
    assert made.dsps(spec.dsp) == 32
    assert 64 * 64 * 256 / (2 * made.dsps(spec.dsp) * made.cycles) > 0.999
    assert all(c.int("pack") == 1 for c in GemmInt().space(problem, fpga_spec("ecp5")))


def test_sparse_weights_save_their_cycles():
    cycles = {}
    for kept, group in ((4, 4), (2, 4), (1, 4)):
        # As many multipliers each: 8 rows by 4.
        config = Config.of(rows=8, groups=4 // kept)
        cycles[kept] = estimate(GemvSparse().build(SparseProblem(64, 512, kept, group), config)).cycles
    assert cycles[4] / cycles[2] > 1.95
    assert cycles[4] / cycles[1] > 3.8


def test_compressed_weights_are_the_matrix():
    rng = np.random.default_rng(2)
    dense = rng.integers(-128, 128, (6, 5, 4), dtype=np.int8)
    dense[np.arange(6)[:, None], np.arange(5), rng.integers(0, 4, (6, 5))] = 0
    dense[:, :, 1] = 0
    matrix, x = dense.reshape(6, 20), rng.integers(-128, 128, 20, dtype=np.int8)
    values, places = compress(matrix, 3, 4)
    found = GemvSparse().reference(SparseProblem(6, 20, 3), {"V": values, "I": places, "X": x.reshape(5, 4)})
    assert (found["Y"] == matrix.astype(np.int32) @ x).all()
    with pytest.raises(KompiloError, match="expected 1 nonzeros of 4 at most, found"):
        compress(matrix, 1, 4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: GemmInt().build(GemmProblem(4, 4, 4), Config.of(um=8, un=1, uk=1, pack=1)),
            "knob um: expected 1..4, found 8",
        ),
        (lambda: GemmInt().build(GemmProblem(4, 4, 4), Config.of(um=3, un=1, uk=1, pack=2)), "an even um, found 3"),
        (
            lambda: GemmInt().build(GemmProblem(0, 4, 4), Config.of(um=1, un=1, uk=1, pack=1)),
            "sizes above 0, found {'m': 0}",
        ),
        (lambda: GemvSparse().build(SparseProblem(4, 6), Config.of(rows=1, groups=1)), "expected whole groups"),
        (lambda: Pool().build(PoolProblem(Picture(4, 4, 1, 2, 2), "mean"), Config.of(lanes=1)), "a kind of max, sum"),
        (lambda: Elementwise().build(ElementwiseProblem(4, "tanh"), Config.of(lanes=1)), "one of relu, add, add_relu"),
        (lambda: Pool().build(PoolProblem(Picture(2, 4, 1, 3, 3)), Config.of(lanes=1)), "'out_h': 0"),
    ],
)
def test_errors(make, message):
    with pytest.raises(KompiloError, match=message):
        make()
