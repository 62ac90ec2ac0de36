"""Fourier transforms, banks of filters, determinants, and convolutions by their columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ml_dtypes
import numpy as np
import pytest
from onnx import helper

from kompilo.compiler.frontend.importer import import_model
from kompilo.errors import InputError, ModelError

from op_test import check_model, check_op, floats, i64, make_model, run_imported


def check_signal(
    op: str,
    inputs: Sequence[np.ndarray | None],
    attributes: Mapping[str, int],
    wanted: Sequence[np.ndarray],
    *,
    opset: int,
    const: Sequence[int],
    dynamic: bool,
) -> None:
    """Like `check_op`; of a dynamic signal all sizes are open but the last, which says whether it is complex."""
    names = [f"x{i}" if x is not None else "" for i, x in enumerate(inputs)]
    given = {name: np.asarray(x) for name, x in zip(names, inputs, strict=True) if x is not None}
    fixed = [f"x{i}" for i in const]
    node = helper.make_node(op, names, ["y"], **attributes)
    model = make_model([node], given, ["y"], const=fixed, dynamic=["x0"] if dynamic else [], opset=opset)
    sizes = given["x0"].shape
    shapes = {"x0": [*[f"n{i}" for i in range(len(sizes) - 1)], sizes[-1]]} if dynamic else None
    feeds = {name: x for name, x in given.items() if name not in fixed}
    check_model(model, feeds, reference=wanted, shapes=shapes)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize(
    ("shape", "length", "axis", "attributes"),
    [
        ((2, 7, 5, 1), None, 1, {}),
        ((2, 7, 5, 1), 9, -3, {"onesided": 1}),
        ((3, 6, 2), 4, 1, {}),
        ((3, 6, 2), 11, -2, {"inverse": 1}),
    ],
)
def test_dft(shape: tuple[int, ...], length: int | None, axis: int, attributes: dict, dynamic: bool) -> None:
    """Lengths that crop and pad; sizes that stay open are computed with factors of the run."""
    x = floats(*shape)
    given = x[..., 0] if shape[-1] == 1 else x[..., 0] + 1j * x[..., 1]
    transform = np.fft.ifft if "inverse" in attributes else np.fft.fft
    y = transform(given, length, axis=axis % len(shape))
    if "onesided" in attributes:
        y = y.take(range(y.shape[axis % len(shape)] // 2 + 1), axis % len(shape))
    inputs = [x, None if length is None else np.array(length), np.array(axis)]
    wanted = [np.stack([y.real, y.imag], -1).astype(np.float32)]
    check_signal("DFT", inputs, attributes, wanted, opset=20, const=[1, 2][length is None :], dynamic=dynamic)


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("length", [7, 8])
def test_inverse_of_a_half_spectrum(length: int, known: bool) -> None:
    """A real signal; its length and axis constants, or data."""
    x = floats(3, 5, 2, 2)
    y = np.fft.irfft(x[..., 0] + 1j * x[..., 1], length, axis=1)[..., None].astype(np.float32)
    attributes = {"inverse": 1, "onesided": 1}
    const = (1, 2) if known else ()
    inputs = [x, np.array(length), np.array(1)]
    check_signal("DFT", inputs, attributes, [y], opset=20, const=const, dynamic=not known)


def test_dft_refusals() -> None:
    with pytest.raises(ModelError, match="real numbers"):
        check_op("DFT", [floats(2, 5, 2)], {"onesided": 1}, opset=20)
    with pytest.raises(ModelError, match="last dimension must be 1"):
        check_op("DFT", [floats(2, 5, 3)], opset=20)
    node = helper.make_node("DFT", ["x", "", "axis"], ["y"])
    inputs = {"x": floats(2, 5, 1), "axis": np.array(2)}
    with pytest.raises(InputError):
        run_imported(import_model(make_model([node], inputs, ["y"], opset=20)), inputs)


@pytest.mark.parametrize("const", [(1, 2, 3), (2,)])
@pytest.mark.parametrize("onesided", [0, 1])
def test_stft(const: tuple[int, ...], onesided: int) -> None:
    """The step and the length constants, or data."""
    x, window = floats(2, 37, 1), floats(9, low=0.5, high=1)
    frames = np.stack([x[:, i * 4 : i * 4 + 9, 0] * window for i in range(8)], 1)
    y = np.fft.rfft(frames) if onesided else np.fft.fft(frames)
    wanted = [np.stack([y.real, y.imag], -1).astype(np.float32)]
    inputs = [x, np.array(4), window, np.array(9)]
    check_signal("STFT", inputs, {"onesided": onesided}, wanted, opset=17, const=const, dynamic=True)


def test_stft_without_a_window() -> None:
    check_op("STFT", [floats(2, 33, 1), np.array(8), None, np.array(16)], opset=17, const=(1, 3))


@pytest.mark.parametrize("const", [(), (0, 1, 2, 3, 4)])
def test_mel_weights(const: tuple[int, ...]) -> None:
    inputs = [np.array(11), np.array(129), np.array(16000), np.float32(20), np.float32(7600)]
    check_op("MelWeightMatrix", inputs, opset=17, const=const)


@pytest.mark.parametrize("shape", [(3, 3), (2, 3, 5, 5), (4, 1, 1)])
def test_determinants(shape: tuple[int, ...]) -> None:
    """Also of matrices whose first pivot is 0, and of singular ones."""
    x = floats(*shape)
    x[..., 0, 0] = 0
    if shape[-1] == 5:
        x[0, 0, 3] = x[0, 0, 1]
    wanted = [np.asarray(np.linalg.det(x.astype(np.float64)), np.float32)]
    check_op("Det", [x], dynamic=len(shape) == 4, reference=wanted)


@pytest.mark.parametrize("const", [(1, 2), (1,), ()])
@pytest.mark.parametrize(
    ("image", "block", "attributes"),
    [
        ([7, 5], [3, 2], {}),
        ([6, 7], [2, 3], {"strides": [2, 1], "pads": [1, 0, 2, 1], "dilations": [2, 1]}),
        ([9], [4], {"strides": [3]}),
    ],
)
def test_col2im(image: list[int], block: list[int], attributes: dict, const: tuple[int, ...]) -> None:
    rank = len(image)
    pads, steps = attributes.get("pads", [0] * 2 * rank), attributes.get("strides", [1] * rank)
    gaps = attributes.get("dilations", [1] * rank)
    counts = [(image[i] + pads[i] + pads[rank + i] - gaps[i] * (block[i] - 1) - 1) // steps[i] + 1 for i in range(rank)]
    x = floats(2, 3 * int(np.prod(block)), int(np.prod(counts)))
    wanted = np.zeros((2, 3, *[image[i] + pads[i] + pads[rank + i] for i in range(rank)]), np.float32)
    columns = x.reshape(2, 3, *block, *counts)
    for inner in np.ndindex(*block):
        for at in np.ndindex(*counts):
            place = tuple(at[i] * steps[i] + inner[i] * gaps[i] for i in range(rank))
            wanted[(slice(None), slice(None), *place)] += columns[(slice(None), slice(None), *inner, *at)]
    wanted = wanted[(..., *[slice(pads[i], pads[i] + image[i]) for i in range(rank)])]
    inputs = [x, i64(*image), i64(*block)]
    check_op("Col2Im", inputs, attributes, opset=18, const=const, reference=[wanted])


def test_deformed_convolution_without_offsets_is_a_convolution() -> None:
    x, w, b = floats(2, 6, 7, 9), floats(4, 3, 3, 2), floats(4)
    attributes = {"group": 2, "strides": [2, 1], "pads": [1, 0, 2, 1], "dilations": [1, 2]}
    model = make_model(
        [helper.make_node("Conv", ["x", "w", "b"], ["y"], **attributes)], {"x": x, "w": w, "b": b}, ["y"]
    )
    (wanted,) = run_imported(import_model(model), {"x": x, "w": w, "b": b})
    offsets = np.zeros((2, 2 * 3 * 6, *wanted.shape[2:]), np.float32)
    mask = np.full((2, 3 * 6, *wanted.shape[2:]), 0.5, np.float32)
    deformed = {**attributes, "offset_group": 3}
    found = [x, w, offsets, b, mask]
    wanted = (wanted - b[:, None, None]) * np.float32(0.5) + b[:, None, None]
    check_op("DeformConv", found, deformed, opset=19, dynamic=[0], reference=[wanted], atol=1e-4)


@pytest.mark.parametrize("masked", [False, True])
def test_deformed_convolution(masked: bool) -> None:
    """Offsets that reach beyond the image, too."""
    x, w = floats(1, 4, 6, 5), floats(3, 4, 2, 3)
    offsets, mask = floats(1, 2 * 2 * 6, 5, 3, low=-3, high=3), floats(1, 2 * 6, 5, 3)
    inputs = [x, w, offsets, floats(3), mask] if masked else [x, w, offsets]
    check_op("DeformConv", inputs, {"offset_group": 2}, opset=19, reference="onnx", atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float8_e5m2"])
@pytest.mark.parametrize("mode", ["linear", "circular"])
def test_tensor_scatter(mode: str, dtype: str) -> None:
    """Two samples of a cache of 7; the second update of a circular one wraps around."""
    kind = np.dtype(dtype) if dtype == "float32" else np.dtype(getattr(ml_dtypes, dtype))
    past, new = floats(2, 3, 7, 5).astype(kind), floats(2, 3, 4, 5, seed=1).astype(kind)
    where = i64(1, 3 if mode == "linear" else 12)
    wanted = past.copy()
    for sample in range(2):
        places = (where[sample] + np.arange(4)) % 7
        wanted[sample][:, places] = new[sample]
    node = helper.make_node("TensorScatter", ["past", "new", "where"], ["y"], mode=mode)
    feeds = {"past": past, "new": new, "where": where}
    model = make_model([node], feeds, ["y"], dynamic=["past"], opset=24, ir_version=11)
    (found,) = run_imported(import_model(model), feeds)
    assert found.dtype == kind
    np.testing.assert_array_equal(found.astype(np.float32), wanted.astype(np.float32))
