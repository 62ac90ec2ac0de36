"""The matmul template against numpy in float64: shapes, permutations, batches, epilogues, symbolic sizes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st

from kompilo.compiler.schedule.op_spec import OpSpec, Step, TensorType
from kompilo.compiler.schedule.target import find_target
from kompilo.compiler.schedule.template import Config
from kompilo.targets.cpu.templates.matmul_tile import MatmulTile, pack_panels

TARGET = find_target("cpu")


@dataclass(frozen=True)
class Case:
    """A matmul in memory order: shapes as stored, with the permutations to the logical operands."""

    lhs: tuple[int, ...]
    rhs: tuple[int, ...]
    constant: bool = True
    lhs_perm: tuple[int, ...] = ()
    rhs_perm: tuple[int, ...] = ()
    out_perm: tuple[int, ...] = ()
    bias: bool = False
    residual: bool = False
    symbolic: dict[int, str] = field(default_factory=dict)  # dimension size -> name


def check(case: Case, config: Config | None = None, target=TARGET) -> None:
    rng = np.random.default_rng(0)
    lhs_perm = case.lhs_perm or tuple(range(len(case.lhs)))
    rhs_perm = case.rhs_perm or tuple(range(len(case.rhs)))
    a, b = (rng.normal(size=s).astype("float32") for s in (case.lhs, case.rhs))
    expected = a.transpose(lhs_perm).astype("float64") @ b.transpose(rhs_perm).astype("float64")
    anchor_shape = expected.shape
    out_perm = case.out_perm or tuple(range(expected.ndim))
    arrays, steps = [a, b], []
    if case.bias:
        arrays.append(rng.normal(size=anchor_shape[-1:]).astype("float32"))
        steps.append(Step("add", ("anchor", f"i{len(arrays) - 1}"), "float32"))
        expected = expected + arrays[-1]
    if case.residual:
        arrays.append(rng.normal(size=anchor_shape).astype("float32"))
        before = f"s{len(steps) - 1}" if steps else "anchor"
        steps += [Step("add", (before, f"i{len(arrays) - 1}"), "float32")]
        steps += [Step("nn.relu", (f"s{len(steps) - 1}",), "float32")]
        expected = np.maximum(expected + arrays[-1], 0)
    expected = expected.transpose(out_perm)

    def typed(shape: tuple[int, ...]) -> TensorType:
        return TensorType(tuple(case.symbolic.get(d, d) for d in shape), "float32")

    op = OpSpec(
        kind="matmul",
        inputs=tuple(typed(x.shape) for x in arrays),
        constant=(False, case.constant, *[False] * (len(arrays) - 2)),
        attrs=(("lhs_perm", lhs_perm), ("out_perm", out_perm), ("rhs_perm", rhs_perm)),
        anchor_type=typed(anchor_shape),
        output=typed(expected.shape),
        epilogue=tuple(steps),
    )
    template = MatmulTile()
    space = template.match(op, target.spec)
    assert space is not None
    candidate = template.build(op, target.spec, config or space.default)
    func = candidate.func.with_attr("global_symbol", "main").with_attr("tirx.noalias", True)
    library = tvm.compile(tvm.IRModule({"main": func}), target.tvm_target())
    packed = [candidate.packers[k](x) if k in candidate.packers else x for k, x in enumerate(arrays)]
    tensors = [tvm.runtime.tensor(x) for x in (*packed, np.full(expected.shape, np.nan, "float32"))]
    library["main"](*tensors)
    error = np.abs(tensors[-1].numpy() - expected).max() / max(1e-30, np.abs(expected).max())
    assert error < 1e-5


@pytest.mark.parametrize(
    "case",
    [
        Case((128, 384), (384, 384), bias=True),
        Case((1, 128, 64), (64, 100), bias=True, residual=True),
        Case((1, 300), (300, 1000), bias=True),
        Case((40, 120), (120, 625)),
        Case((3, 7), (7, 5), bias=True, residual=True),
        Case((1, 1), (1, 1)),
        Case((2, 5, 7), (9, 7), rhs_perm=(1, 0)),
        Case((1, 16, 4, 8), (1, 16, 4, 8), False, (0, 2, 1, 3), (0, 2, 3, 1)),
        Case((1, 4, 16, 16), (1, 16, 4, 8), False, (0, 1, 2, 3), (0, 2, 1, 3), (0, 2, 1, 3)),
        Case((2, 3, 5, 7), (7, 9), out_perm=(0, 2, 3, 1), bias=True),
        Case((2, 3, 5, 7), (2, 3, 7, 9), False, out_perm=(3, 0, 1, 2), residual=True),
        Case((2, 3, 5, 7), (2, 3, 7, 9), False, residual=True),
        Case((2, 3, 5, 7), (1, 1, 7, 16), False, bias=True),
        Case((2, 1, 5, 7), (3, 7, 16), False),
        Case((5, 7), (3, 7, 16), False),
        Case((6, 5), (5, 7), symbolic={6: "n"}, bias=True, residual=True),
        Case((33, 5), (5, 70), symbolic={33: "n"}),
        Case((3, 21, 5), (3, 5, 19), False, symbolic={3: "batch", 21: "length"}),
        Case((2, 21, 8), (2, 21, 8), False, rhs_perm=(0, 2, 1), symbolic={21: "length"}, residual=True),
    ],
    ids=str,
)
def test_against_numpy(case: Case) -> None:
    check(case)


@settings(max_examples=12, deadline=None)
@given(m=st.integers(1, 40), n=st.integers(1, 80), k=st.integers(1, 20), constant=st.booleans(), bias=st.booleans())
def test_random_shapes(m: int, n: int, k: int, constant: bool, bias: bool) -> None:
    check(Case((m, k), (k, n), constant, bias=bias))


@pytest.mark.parametrize("knobs", [(1, 8, 1), (4, 1, 2), (9, 3, 1), (6, 4, 64)])
def test_every_kind_of_config(knobs: tuple[int, int, int]) -> None:
    rows, vectors, chunk = knobs
    check(Case((23, 31), (31, 150), bias=True), Config.of(rows=rows, vectors=vectors, chunk=chunk))


def test_avx2_preset_runs_here() -> None:
    check(Case((17, 33), (33, 50), bias=True), target=find_target("cpu:avx2"))


def test_pack_panels_pads_with_zeros() -> None:
    packed = pack_panels(np.arange(6, dtype="float32").reshape(2, 3), 2)
    assert packed.tolist() == [[[0, 1], [3, 4]], [[2, 0], [5, 0]]]


def test_other_dtypes_are_left_to_other_templates() -> None:
    half = TensorType((4, 4), "float16")
    op = OpSpec(
        "matmul",
        (half, half),
        (False, True),
        (("lhs_perm", (0, 1)), ("out_perm", (0, 1)), ("rhs_perm", (0, 1))),
        half,
        half,
    )
    assert MatmulTile().match(op, TARGET.spec) is None


@pytest.mark.parametrize("sizes", [(0, 3, 4), (2, 0, 4), (2, 3, 0)])
def test_empty_matrices_are_left_to_the_generic_rules(sizes: tuple[int, int, int]) -> None:
    m, k, n = sizes
    a, b, c = (TensorType(s, "float32") for s in ((m, k), (k, n), (m, n)))
    attrs = (("lhs_perm", (0, 1)), ("out_perm", (0, 1)), ("rhs_perm", (0, 1)))
    assert MatmulTile().match(OpSpec("matmul", (a, b), (False, True), attrs, c, c), TARGET.spec) is None
