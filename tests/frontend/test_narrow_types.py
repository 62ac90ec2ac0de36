"""Element types of 8 bits and fewer: casts, quantization, and operators that move elements."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper

from kompilo.compiler.frontend.importer import import_model
from kompilo.errors import ModelError

from op_test import check_op, floats, i64, make_model, reference_outputs, run_imported

FLOAT8 = ("FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ")
FINITE = ("FLOAT4E2M1", "FLOAT6E2M3", "FLOAT6E3M2")
WIDTHS = {"FLOAT4E2M1": 4, "FLOAT6E2M3": 6, "FLOAT6E3M2": 6}


def numpy_type(name: str) -> np.dtype:
    return helper.tensor_dtype_to_np_dtype(getattr(TensorProto, name))


def all_codes(name: str) -> np.ndarray:
    return np.arange(1 << WIDTHS.get(name, 8), dtype=np.uint8).view(numpy_type(name))


def cast(x: np.ndarray, name: str, **attributes: object) -> np.ndarray:
    node = helper.make_node("Cast", ["x"], ["y"], to=getattr(TensorProto, name), **attributes)
    imported = import_model(make_model([node], {"x": x}, ["y"], opset=28, ir_version=13))
    assert imported.outputs[0].dtype == numpy_type(name).name
    return run_imported(imported, {"x": x})[0]


def between(name: str) -> np.ndarray:
    """Numbers of the type, what lies halfway between two and right beside that, and what is far from all."""
    numbers = all_codes(name).astype(np.float32)
    numbers = np.unique(numbers[np.isfinite(numbers)])
    halves = (numbers[1:] + numbers[:-1]) / 2
    beside = [np.nextafter(halves, np.float32(end)) for end in (-np.inf, np.inf)]
    far = np.float32([np.inf, -np.inf, np.nan, -np.nan, 0.0, -0.0, 3e38, -3e38, 1e-45, -1e-45, 1e-6])
    rest = 2.0 * numbers[-1] * floats(300, low=-1, high=1)
    return np.concatenate([numbers, halves, *beside, far, rest])


@pytest.mark.parametrize("name", [*FLOAT8, *FINITE, "FLOAT8E8M0"])
def test_every_code_is_its_number(name: str) -> None:
    """Also as constants, and of the sign."""
    codes = all_codes(name)
    found, wanted = cast(codes, "FLOAT"), codes.astype(np.float32)
    np.testing.assert_array_equal(found, wanted)
    numbers = ~np.isnan(wanted)
    np.testing.assert_array_equal(np.signbit(found[numbers]), np.signbit(wanted[numbers]))


@pytest.mark.parametrize("name", [*FLOAT8, *FINITE])
@pytest.mark.parametrize(("source", "saturate"), [("float32", 1), ("float32", 0), ("float16", 1), ("bfloat16", 0)])
def test_floats_are_rounded_to_even_and_saturate(name: str, source: str, saturate: int) -> None:
    """Bit by bit what ml_dtypes gives, which clipped numbers saturate in."""
    kind = numpy_type(name)
    with np.errstate(all="ignore"):
        x = between(name).astype(source)
        limits = ml_dtypes.finfo(kind)
        given = np.clip(x, limits.min.astype(source), limits.max.astype(source)) if saturate else x
        wanted = given.astype(kind)
    np.testing.assert_array_equal(cast(x, name, saturate=saturate).view(np.uint8), wanted.view(np.uint8))


def test_float64_is_rounded_once() -> None:
    """432 is halfway between 416 and 448; what is nearer to it than float32 can tell must not be taken for it."""
    x = np.array([np.nextafter(432, 0), 432, np.nextafter(432, 500), 1e300, -np.nextafter(432, 0), 2.0**-1074])
    wanted = [416, 448, 448, 448, -416, 0]  # 448 has an even code
    np.testing.assert_array_equal(cast(x, "FLOAT8E4M3FN").astype(np.float64), wanted)


@pytest.mark.parametrize(
    ("mode", "saturate", "wanted"),
    [
        ("up", 1, [0, 0, 0, 1, 126, 127, 128, 128, 254, 254, 255]),
        ("down", 1, [0, 0, 0, 0, 126, 127, 127, 127, 254, 254, 255]),
        ("nearest", 0, [255, 255, 0, 1, 126, 127, 127, 128, 255, 255, 255]),
    ],
)
def test_powers_of_two(mode: str, saturate: int, wanted: list[int]) -> None:
    x = np.float32([0, 2.0**-128, 2.0**-127, 1.5 * 2.0**-127, 0.5, 1, 1.25, 1.5, 1.9 * 2.0**127, np.inf, np.nan])
    found = cast(x, "FLOAT8E8M0", round_mode=mode, saturate=saturate)
    np.testing.assert_array_equal(found.view(np.uint8), wanted)


@pytest.mark.parametrize("name", ["INT4", "UINT4", "INT2", "UINT2"])
def test_narrow_integers(name: str) -> None:
    """There and back; integers beyond lose their high bits, floats their fractions."""
    limits = ml_dtypes.iinfo(numpy_type(name))
    x = np.arange(limits.min, limits.max + 1, dtype=np.int32)
    codes = cast(x, name)
    np.testing.assert_array_equal(codes.astype(np.int32), x)
    np.testing.assert_array_equal(cast(codes, "FLOAT16"), x.astype(np.float16))
    np.testing.assert_array_equal(cast(codes, "INT8" if limits.min < 0 else "UINT8").astype(np.int32), x)
    np.testing.assert_array_equal(cast(x.astype(np.int64) + (1 << 40), name).astype(np.int32), x)
    np.testing.assert_array_equal(cast(x * np.float32(0.999), name).astype(np.int32), np.trunc(x * 0.999))


@pytest.mark.parametrize("name", ["FLOAT8E4M3FN", "FLOAT8E5M2FNUZ", "FLOAT4E2M1", "INT4", "UINT2"])
@pytest.mark.parametrize("blocked", [False, True])
def test_quantize_and_back(name: str, blocked: bool) -> None:
    """Per axis, and blocks of 3 of an axis of 7."""
    x, kind = floats(3, 7, low=-9, high=9), numpy_type(name)
    scale = floats(*((3, 3) if blocked else (7,)), low=0.5, high=3)
    attributes = {"block_size": 3} if blocked else {}
    zero_point = np.zeros(scale.shape, kind)
    every = np.repeat(scale, 3, 1)[:, :7] if blocked else scale
    if name.endswith(("4", "2")):
        zero_point = (np.arange(scale.size) % 2).reshape(scale.shape).astype(kind)
        points = zero_point.astype(np.float32)
        points = np.repeat(points, 3, 1)[:, :7] if blocked else points
        limits = ml_dtypes.iinfo(kind)
        codes = np.clip(np.rint(x / every) + points, limits.min, limits.max).astype(kind)
    else:
        points, limits = np.float32(0), ml_dtypes.finfo(kind)
        codes = np.clip(x / every, np.float32(limits.min), np.float32(limits.max)).astype(kind)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], **attributes),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], **attributes),
    ]
    model = make_model(nodes, {"x": x, "s": scale, "z": zero_point}, ["q", "y"], const=["z"], opset=25, ir_version=11)
    found, back = run_imported(import_model(model), {"x": x, "s": scale})
    np.testing.assert_array_equal(found.view(np.uint8), codes.view(np.uint8))
    np.testing.assert_allclose(back, (codes.astype(np.float32) - points) * every, rtol=1e-6)


def test_moved_elements_keep_their_type() -> None:
    """Weights and inputs of a model that moves and pads them; a scan over them, and of sizes that stay open."""
    kind = ml_dtypes.float8_e4m3fn
    x, w = floats(2, 3, 5).astype(kind), floats(1, 30).astype(kind)
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[2, 0, 1]),
        helper.make_node("Pad", ["t", "pads", "fill"], ["p"]),
        helper.make_node("Unsqueeze", ["p", "axis"], ["u"]),
        helper.make_node("Identity", ["w"], ["v"]),
        helper.make_node("IsNaN", ["p"], ["n"]),
    ]
    inputs = {"x": x, "w": w, "pads": i64(1, 0, 0, 0, 0, 2), "fill": np.array(np.nan, kind), "axis": i64(1)}
    model = make_model(
        nodes, inputs, ["u", "v", "n"], const=["w", "pads", "fill", "axis"], dynamic=["x"], opset=25, ir_version=11
    )
    moved, kept, missing = run_imported(import_model(model), {"x": x})
    wanted = np.pad(x.astype(np.float32).transpose(2, 0, 1), [(1, 0), (0, 0), (0, 2)], constant_values=np.nan)
    assert moved.dtype == kept.dtype == kind
    np.testing.assert_array_equal(moved.astype(np.float32), wanted[:, None])
    np.testing.assert_array_equal(kept.view(np.uint8), w.view(np.uint8))
    np.testing.assert_array_equal(missing, np.isnan(wanted))


def test_bits_of_another_type() -> None:
    x = all_codes("FLOAT8E5M2")
    node = helper.make_node("BitCast", ["x"], ["y"], to=TensorProto.INT8)
    model = make_model([node], {"x": x}, ["y"], opset=26, ir_version=13)
    np.testing.assert_array_equal(run_imported(import_model(model), {"x": x})[0], x.view(np.int8))


def test_refusals_name_the_type() -> None:
    x = np.zeros(3, ml_dtypes.float8_e4m3fn)
    with pytest.raises(ModelError, match="expected one of"):
        check_op("Add", [x, x], opset=25)
    node = helper.make_node("EyeLike", ["x"], ["y"], dtype=TensorProto.FLOAT8E5M2)
    with pytest.raises(ModelError, match="float8_e5m2"):
        import_model(make_model([node], {"x": floats(2, 3)}, ["y"], dynamic=True))


@pytest.mark.parametrize("op", ["Exp", "Softmax", "LogSoftmax", "Erf", "Gelu", "LayerNormalization"])
def test_bfloat16_is_computed_in_float32(op: str) -> None:
    """Operators whose kernels bind variables; inputs, weights and outputs of bfloat16."""
    x = floats(3, 37, low=-4, high=4).astype(ml_dtypes.bfloat16)
    wide = [x.astype(np.float32)]
    inputs = [x]
    if op == "LayerNormalization":
        inputs.append(floats(37).astype(ml_dtypes.bfloat16))
        wide.append(inputs[1].astype(np.float32))
    names = [f"x{i}" for i in range(len(inputs))]
    node = helper.make_node(op, names, ["y"])
    plain = make_model([node], dict(zip(names, wide, strict=True)), ["y"], const=names[1:])
    (wanted,) = reference_outputs(plain, {"x0": wide[0]})
    model = make_model([node], dict(zip(names, inputs, strict=True)), ["y"], const=names[1:])
    (found,) = run_imported(import_model(model), {"x0": x})
    assert found.dtype == ml_dtypes.bfloat16
    np.testing.assert_allclose(found.astype(np.float32), wanted, rtol=2**-7, atol=2**-9)
