"""The float64 reference: against the templates' own test references, its bounds, and its answers to wrong results."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from conv_cases import conv2d, random_inputs
from conv_cases import reference as summed

from kompilo.compiler.errors import UsageError
from kompilo.compiler.passes.anchors import ANCHORS
from kompilo.compiler.schedule.epilogue import STEP_OPS
from kompilo.compiler.schedule.op_spec import OpSpec, Step, TensorType
from kompilo.compiler.tune import reference
from kompilo.compiler.tune.measure.operands import random_operands
from kompilo.compiler.tune.numbers import carrier, narrow, widen
from kompilo.compiler.tune.reference import erf, evaluate, tolerance


def matmul(m: int, n: int, k: int, *steps: tuple[str, tuple[str | float, ...]], extra: tuple[int, ...] = ()) -> OpSpec:
    result = TensorType((m, n), "float32")
    types = [TensorType((m, k), "float32"), TensorType((k, n), "float32")]
    if extra:
        types.append(TensorType(extra, "float32"))
    return OpSpec(
        "matmul",
        tuple(types),
        (False, True, *(False for _ in types[2:])),
        (("lhs_perm", (0, 1)), ("out_perm", (0, 1)), ("rhs_perm", (0, 1))),
        result,
        result,
        tuple(Step(op, args, "float32") for op, args in steps),
    )


def test_tables_are_complete() -> None:
    kinds = {"conv2d", "conv2d_transpose", "pool2d", "matmul", "attention"}
    assert set(reference.ANCHORS) == kinds
    assert {name.split(".")[-1].replace("max_", "").replace("avg_", "") for name in ANCHORS} == kinds
    # Integers are scaled in int64, which has numbers that float64 has not: such operators are not tuned.
    assert set(reference.STEPS) == set(STEP_OPS) - {"right_shift"}


@pytest.mark.parametrize(
    "op",
    [
        conv2d((1, 9, 11, 8), (12, 8, 3, 3), (1, 1), (1, 1, 1, 1), epilogue=("bias", "residual", "hardswish")),
        conv2d((2, 13, 10, 12), (20, 3, 3, 5), (2, 1), (1, 2, 3, 4), (2, 3), groups=4),
        conv2d((1, 9, 9, 6), (12, 1, 3, 3), (1, 1), (1, 1, 1, 1), groups=6, epilogue=("gate", "sigmoid")),
        conv2d((1, 8, 8, 5), (7, 5, 2, 2), (3, 3), epilogue=("pixel",)),
    ],
    ids=str,
)
def test_convolutions(op: OpSpec) -> None:
    inputs = random_inputs(op)
    np.testing.assert_allclose(evaluate(op, inputs).values, summed(op, inputs), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("padding", [(0, 0, 0, 0), (1, 0, 0, 2)])
def test_transposed_convolutions(groups: int, padding: tuple[int, ...]) -> None:
    stride, dilation, extra = (2, 3), (1, 2), (1, 0)
    data, weight = (1, 5, 6, 4 * groups), (4 * groups, 3, 3, 2)
    size = [
        (data[1 + a] - 1) * stride[a] + (weight[2 + a] - 1) * dilation[a] + 1 + extra[a] - padding[a] - padding[a + 2]
        for a in (0, 1)
    ]
    attrs = {
        "strides": stride, "padding": padding, "output_padding": extra, "dilation": dilation, "groups": groups,
        "data_layout": "NHWC",
    }  # fmt: skip
    result = TensorType((1, *size, 3 * groups), "float32")
    types = (TensorType(data, "float32"), TensorType(weight, "float32"))
    op = OpSpec("conv2d_transpose", types, (False, True), tuple(sorted(attrs.items())), result, result)
    inputs = random_inputs(op)
    np.testing.assert_allclose(evaluate(op, inputs).values, summed(op, inputs), rtol=1e-12, atol=1e-12)


def pool(mode: str, include: int = 0) -> OpSpec:
    attrs = {
        "mode": mode, "pool_size": (2, 3), "strides": (2, 1), "padding": (1, 1, 0, 1), "dilation": (1, 1),
        "ceil_mode": 0, "count_include_pad": include,
    }  # fmt: skip
    result = TensorType((1, 2, 3, 1), "float32")
    source = TensorType((1, 3, 3, 1), "float32")
    return OpSpec("pool2d", (source,), (False,), tuple(sorted(attrs.items())), result, result)


def test_pooling() -> None:
    data = -np.arange(1.0, 10.0, dtype="float32").reshape(1, 3, 3, 1)

    def result(op: OpSpec) -> list[list[float]]:
        return evaluate(op, [data]).values[0, :, :, 0].tolist()

    assert result(pool("max")) == [[-1, -1, -2], [-4, -4, -5]]
    assert result(pool("avg")) == [[-1.5, -2, -2.5], [-6, -6.5, -7]]
    assert result(pool("avg", 1)) == [[-0.5, -1, -5 / 6], [-4, -6.5, -14 / 3]]


def test_a_window_in_padding_alone_lets_no_other_element_be_wrong() -> None:
    attrs = dict(pool("max").attrs) | {"pool_size": (1, 1), "strides": (2, 2), "padding": (1, 1, 1, 1)}
    result = TensorType((1, 3, 3, 1), "float32")
    op = replace(pool("max"), attrs=tuple(sorted(attrs.items())), anchor_type=result, output=result)
    expected = evaluate(op, [np.arange(1.0, 10.0, dtype="float32").reshape(1, 3, 3, 1)])
    assert expected.values[0, 1, 1, 0] == 5
    assert expected.largest == 5
    found = expected.values.astype("float32")
    assert expected.worst(found)[1] is None
    found[0, 1, 1, 0] = 0
    assert expected.worst(found)[1] == (0, 1, 1, 0)


def test_permuted_matmul() -> None:
    types = TensorType((2, 5, 3), "float32"), TensorType((7, 5), "float32")
    attrs = (("lhs_perm", (0, 2, 1)), ("out_perm", (2, 0, 1)), ("rhs_perm", (1, 0)))
    op = OpSpec(
        "matmul", types, (False, False), attrs, TensorType((2, 3, 7), "float32"), TensorType((7, 2, 3), "float32")
    )
    a, b = random_inputs(op)
    expected = evaluate(op, [a, b])
    np.testing.assert_allclose(expected.values, np.einsum("bkm,nk->nbm", a, b, dtype=np.float64), rtol=1e-12)
    assert expected.slack.shape == (7, 2, 3)


def test_every_step_on_numbers() -> None:
    x = np.array([-2.5, -1.0, 0.0, 0.3, 4.0])
    expected = {
        "nn.relu": np.maximum(x, 0), "sigmoid": 1 / (1 + np.exp(-x)), "nn.silu": x / (1 + np.exp(-x)),
        "nn.gelu": [0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x], "erf": [math.erf(v) for v in x],
        "square": x * x, "abs": np.abs(x), "negative": -x, "exp": np.exp(x), "tanh": np.tanh(x),
    }  # fmt: skip
    for name, values in expected.items():
        np.testing.assert_allclose(reference.STEPS[name](x), values, rtol=1e-12, atol=1e-15, err_msg=name)
    np.testing.assert_array_equal(reference.STEPS["nn.leakyrelu"](x, 0.1), np.where(x >= 0, x, x * 0.1))
    np.testing.assert_array_equal(reference.STEPS["clip"](np.array([np.nan, 9.0]), 0.0, 6.0), [np.nan, 6.0])


def test_erf_is_exact_enough_everywhere() -> None:
    x = np.concatenate([np.linspace(-7, 7, 4001), [np.inf, -np.inf, np.nan, -0.0, 1e-300]])
    found = erf(x)
    for value, result in zip(x, found, strict=True):
        assert result == pytest.approx(math.erf(value), abs=1e-13, nan_ok=True)
    assert math.copysign(1, found[-2]) == -1


def test_right_results_pass_and_wrong_ones_are_found() -> None:
    op = matmul(20, 30, 500, ("add", ("anchor", "i2")), ("nn.relu", ("s0",)), extra=(30,))
    inputs = random_operands(op, 0)
    expected = evaluate(op, inputs)
    found = np.maximum(inputs[0] @ inputs[1] + inputs[2], 0)
    error, index = expected.worst(found)
    assert 0 < error < 1e-6
    assert index is None
    for value in (found[3, 4] + 1e-2, np.nan, np.inf):
        broken = found.copy()
        broken[3, 4] = value
        error, index = expected.worst(broken)
        assert index == (3, 4)
        assert error > 1e-4


def test_rounding_may_decide_what_an_epilogue_gives() -> None:
    """A square root near zero: NaN or a small number; a division by almost nothing: anything."""
    op = matmul(4, 4, 8, ("sqrt", ("anchor",)))
    a, b = (np.zeros(t.shape, "float32") for t in op.inputs)
    a[0, 0], b[0, 0] = 2.0, 8.0
    expected = evaluate(op, [a, b])
    found = np.array(expected.values, "float32")
    assert found[0, 0] == 4.0
    found[1, 1] = np.nan
    assert expected.worst(found)[1] is None
    found[0, 0] = np.nan
    assert expected.worst(found)[1] == (0, 0)


def test_infinities_agree_with_themselves_only() -> None:
    op = matmul(2, 2, 1, ("exp", ("anchor",)))
    expected = evaluate(op, [np.array([[1000.0], [1.0]]), np.ones((1, 2))])
    found = np.array(expected.values, "float32")
    assert np.isinf(found[0]).all()
    assert expected.worst(found)[1] is None


def test_longer_sums_may_be_less_exact() -> None:
    assert tolerance(matmul(1, 1, 100)) == tolerance(matmul(1, 1, 4000)) == 2e-5
    assert tolerance(matmul(1, 1, 4 * 4608)) == pytest.approx(4e-5)


def test_unknown_operators_are_refused() -> None:
    for op in (matmul(2, 2, 2, ("cube", ("anchor",))), matmul("n", 2, 2)):  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="the reference knows"):
            evaluate(op, [])


def half(m: int, n: int, k: int, *steps: tuple[str, tuple[str | float, ...]], dtype: str = "float16") -> OpSpec:
    """A matmul of 16 bits that sums in float32, casts, and goes on in 16 bits with an operand of n numbers."""
    op = matmul(m, n, k, *steps, extra=(n,))
    return OpSpec(
        op.kind,
        tuple(TensorType(t.shape, dtype) for t in op.inputs),
        op.constant,
        op.attrs,
        op.anchor_type,
        TensorType((m, n), dtype),
        (Step("astype", ("anchor",), dtype), *(Step(s.op, s.args, dtype) for s in op.epilogue)),
    )


BIAS_RELU = (("add", ("s0", "i2")), ("nn.relu", ("s1",)))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sixteen_bits(dtype: str) -> None:
    """Rounded as kernels round, a result passes; without one of its products, it does not."""
    op = half(20, 30, 60, *BIAS_RELU, dtype=dtype)
    stored = random_operands(op, 0)
    assert {a.dtype for a in stored} == {carrier(dtype)}
    a, b, c = (widen(x, dtype) for x in stored)
    expected = evaluate(op, stored)

    def rounded(x: np.ndarray) -> np.ndarray:
        return widen(narrow(x, dtype), dtype)

    found = np.maximum(rounded(rounded(a @ b) + c), 0)
    error, index = expected.worst(found)
    assert 0 < error < reference.TOLERANCE[dtype] / 4
    assert index is None
    missing = np.maximum(rounded(rounded(a[:, 1:] @ b[1:]) + c), 0)
    assert expected.worst(missing)[1] is not None


def test_sums_in_float32_of_sixteen_bits_are_nearly_those_of_float32() -> None:
    sums = replace(half(1, 1, 64), epilogue=(), output=TensorType((1, 1), "float32"))
    assert tolerance(sums) == reference.MATRIX_UNIT["float16"] < reference.TOLERANCE["float16"] / 10
    assert tolerance(half(1, 1, 64)) == reference.TOLERANCE["float16"]
    plain = matmul(1, 1, 64)
    tf32 = replace(plain, attrs=(*plain.attrs, ("precision", "tf32")))
    assert tolerance(tf32) == reference.MATRIX_UNIT["float32"]


def test_integers_are_exact_until_they_are_scaled() -> None:
    types = TensorType((9, 31), "int8"), TensorType((31, 7), "int8"), TensorType((7,), "float32")
    sums = TensorType((9, 7), "int32")
    attrs = matmul(1, 1, 1).attrs
    plain = OpSpec("matmul", types[:2], (False, True), attrs, sums, sums)
    a, b = random_operands(plain, 0)
    assert (a.min() < -100, a.max() > 100, a.dtype) == (True, True, np.int8)
    exact = a.astype("i4") @ b.astype("i4")
    assert evaluate(plain, [a, b]).worst(exact) == (0.0, None)
    exact[3, 2] += 1
    assert evaluate(plain, [a, b]).worst(exact)[1] == (3, 2)

    steps = (Step("astype", ("anchor",), "float32"), Step("multiply", ("s0", "i2"), "float32"))
    steps += (Step("clip", ("s1", -128.0, 127.0), "float32"), Step("astype", ("s2",), "int8"))
    scaled = OpSpec("matmul", types, (False, True, True), attrs, sums, TensorType((9, 7), "int8"), steps)
    a, b, c = random_operands(scaled, 0)
    expected = evaluate(scaled, [a, b, c])
    assert 20 < np.abs(expected.values).mean() < 110  # neither nothing nor all clipped
    found = np.clip((a.astype("i4") @ b.astype("i4")).astype("f4") * c, -128, 127).astype("i1")
    assert expected.worst(found)[1] is None
    found[4, 4] += 2
    assert expected.worst(found)[1] == (4, 4)


def test_bfloat16_is_rounded_to_nearest_even() -> None:
    values = np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8, -(2.0**-130), np.inf, np.nan], np.float32)
    found = widen(narrow(values, "bfloat16"), "bfloat16")
    np.testing.assert_array_equal(found, [1.0, 1.0, 1 + 2**-6, -(2.0**-130), np.inf, np.nan])
