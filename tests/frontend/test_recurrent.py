"""RNN, GRU and LSTM against ONNX Runtime, which knows layout 0 only; layout 1 against layout 0."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from kompilo.compiler.errors import InputError, ModelError
from kompilo.compiler.frontend.importer import import_model

from op_test import check_model, check_op, floats, ints, make_model, reference_outputs, run_imported

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
STEPS, BATCH, SIZE, HIDDEN = 5, 3, 7, 6
BOTH = pytest.mark.parametrize("op", list(GATES))


def operands(op, directions=1, *, bias=True, lengths=None, states=False, peepholes=False, dtype="float32"):
    """The inputs of a node in their order; None for those that are left out."""
    rows = GATES[op] * HIDDEN
    state = [floats(directions, BATCH, HIDDEN, seed=s, dtype=dtype) if states else None for s in (5, 6)]
    return [
        floats(STEPS, BATCH, SIZE, dtype=dtype),
        floats(directions, rows, SIZE, seed=1, low=-0.7, high=0.7, dtype=dtype),
        floats(directions, rows, HIDDEN, seed=2, low=-0.7, high=0.7, dtype=dtype),
        floats(directions, 2 * rows, seed=3, dtype=dtype) if bias else None,
        None if lengths is None else np.array(lengths, np.int32),
        *(state if op == "LSTM" else state[:1]),
        *([floats(directions, 3 * HIDDEN, seed=7, dtype=dtype) if peepholes else None] if op == "LSTM" else []),
    ]


def check(op, inputs, attrs=None, const=(1, 2, 3), **options):
    given = [i for i in const if i < len(inputs) and inputs[i] is not None]
    attrs = {"hidden_size": HIDDEN, **(attrs or {})}
    check_op(op, inputs, attrs, outputs=3 if op == "LSTM" else 2, const=given, **options)


@BOTH
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_directions(op, direction):
    directions = 2 if direction == "bidirectional" else 1
    check(op, operands(op, directions), {"direction": direction})
    check(op, operands(op, directions, states=True, lengths=[5, 2, 3]), {"direction": direction})


@BOTH
def test_weights_that_are_inputs_and_open_sizes(op):
    check(op, operands(op, 2, states=True), {"direction": "bidirectional"}, const=())
    check(op, operands(op, states=True, lengths=[1, 5, 4]), dynamic=[0, 4, 5])
    check(op, operands(op, bias=False), dynamic=[0])


@BOTH
def test_clip(op):
    check(op, operands(op), {"clip": 0.5})


@pytest.mark.parametrize("before", [0, 1])
def test_gru_reset(before):
    attrs = {"linear_before_reset": before, "direction": "bidirectional"}
    check("GRU", operands("GRU", 2, states=True), attrs)
    check("GRU", operands("GRU", bias=False), {"linear_before_reset": before})


def test_lstm_peepholes_and_coupled_gates():
    check("LSTM", operands("LSTM", 2, states=True, peepholes=True), {"direction": "bidirectional"})
    check("LSTM", operands("LSTM", peepholes=True), {"input_forget": 1})


@pytest.mark.parametrize(
    ("name", "alpha", "beta"),
    [
        ("Relu", (), ()),
        ("Affine", (0.7,), (0.2,)),
        ("LeakyRelu", (0.3,), ()),
        ("ThresholdedRelu", (0.4,), ()),
        ("ScaledTanh", (0.8,), (0.6,)),
        ("HardSigmoid", (0.3,), (0.4,)),
        ("Elu", (0.9,), ()),
        ("Softsign", (), ()),
        ("Softplus", (), ()),
    ],
)
def test_activations(name, alpha, beta):
    attrs = {"activations": [name], **({"activation_alpha": alpha} if alpha else {})}
    check("RNN", operands("RNN"), attrs | ({"activation_beta": beta} if beta else {}))


def test_float64_and_float16():
    check("LSTM", operands("LSTM", dtype="float64"), reference="onnx")
    narrow, wide = ([None if x is None else x.astype(t) for x in operands("GRU")] for t in ("float16", "float32"))
    names = [f"x{i}" if x is not None else "" for i, x in enumerate(wide)]
    node = helper.make_node("GRU", names, ["y", "h"], hidden_size=HIDDEN)
    results = []
    for inputs in (narrow, wide):
        feeds = {n: x for n, x in zip(names, inputs, strict=True) if x is not None}
        results.append(run_imported(import_model(make_model([node], feeds, ["y", "h"])), feeds))
    for found, wanted in zip(*results, strict=True):
        assert found.dtype == np.float16
        np.testing.assert_allclose(found, wanted, atol=4e-3)


@BOTH
def test_batch_first(op):
    """Layout 1 is layout 0 with the first axes of input, states and outputs exchanged."""
    inputs = operands(op, 2, states=True)
    names = [f"x{i}" if x is not None else "" for i, x in enumerate(inputs)]
    outputs = ["y", "h", "c"][: 3 if op == "LSTM" else 2]
    node = helper.make_node(op, names, outputs, hidden_size=HIDDEN, direction="bidirectional")
    feeds = {n: x for n, x in zip(names, inputs, strict=True) if x is not None}
    expected = reference_outputs(make_model([node], feeds, outputs), feeds)
    node.attribute.append(helper.make_attribute("layout", 1))
    turned = {n: x.swapaxes(0, 1) if n in ("x0", "x5", "x6") else x for n, x in feeds.items()}
    turned = {n: np.ascontiguousarray(x) for n, x in turned.items()}
    wanted = [expected[0].transpose(2, 0, 1, 3), *(e.swapaxes(0, 1) for e in expected[1:])]
    check_model(make_model([node], turned, outputs), turned, reference=wanted)


def test_long_sequence_of_many_units():
    x, w, r = floats(300, 1, 40), floats(1, 4 * 128, 40, seed=1) * 0.1, floats(1, 4 * 128, 128, seed=2) * 0.1
    check_op("LSTM", [x, w, r], {"hidden_size": 128}, outputs=3, const=[1, 2])


@pytest.mark.parametrize(("op", "attrs"), [("LSTM", {}), ("GRU", {"linear_before_reset": 1}), ("GRU", {}), ("RNN", {})])
def test_many_sequences_of_odd_sizes(op, attrs, monkeypatch):
    """Sequences share weights four at a time, units come eight at a time: two and three are left over."""
    monkeypatch.setitem(globals(), "BATCH", 6)
    monkeypatch.setitem(globals(), "HIDDEN", 19)
    attrs = {**attrs, "hidden_size": 19}
    check(op, operands(op, 2, states=True, lengths=[5, 1, 4, 0, 5, 2]), attrs | {"direction": "bidirectional"})
    check(op, operands(op), attrs, dynamic=[0])


def test_saturated_gates():
    """Functions far from zero, where exponentials overflow or vanish."""
    x, w, r = floats(3, 2, 7) * 400, floats(1, 4 * 6, 7, seed=1), floats(1, 4 * 6, 6, seed=2)
    check_op("LSTM", [x, w, r], {"hidden_size": 6}, outputs=3, const=[1, 2])


def test_errors():
    inputs = operands("LSTM")
    with pytest.raises(ModelError, match="direction must be one of forward, reverse, bidirectional, found 'both'"):
        check("LSTM", inputs, {"direction": "both"}, reference=[])
    with pytest.raises(ModelError, match="expected 3 known activations, found"):
        check("LSTM", inputs, {"activations": ["Tanh", "Tanh", "Sine"]}, reference=[])
    with pytest.raises(ModelError, match="weights of 2 directions, 4 gates"):
        check("LSTM", inputs, {"direction": "bidirectional"}, reference=[])
    with pytest.raises(ModelError, match="axis 0 of input 4|elements on axis 0"):
        check("LSTM", operands("LSTM", lengths=[1, 2]), reference=[])


@pytest.mark.parametrize("op", ["LSTM", "GRU"])
def test_open_sizes_of_weights(op):
    """Every input but the rows of W and R may leave its sizes open; each direction checks what the kernel reads."""
    inputs = operands(op, 2, states=True, lengths=[5, 2, 3], peepholes=True)
    open_ones = [0, *range(3, len(inputs))]
    attrs = {"direction": "bidirectional", **({"linear_before_reset": 1} if op == "GRU" else {})}
    check(op, inputs, attrs, const=(1, 2), dynamic=open_ones)
    check(op, inputs[:4], attrs, const=(1, 2), dynamic=[3])


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 3 * HIDDEN), (3 * HIDDEN,)])
@pytest.mark.parametrize("const", [(1, 2, 3), (1, 2, 3, 7)])
def test_peepholes_of_other_sizes(shape, const):
    """The kernel would read beyond their end."""
    inputs = [*operands("LSTM")[:7], floats(*shape)]
    message = "input 7 needs 2 dimensions, found 1" if len(shape) == 1 else "input 7 needs .* elements on axis"
    with pytest.raises(ModelError, match=message):
        check("LSTM", inputs, const=const, reference=[])


def test_short_peepholes_of_an_open_size():
    with pytest.raises(InputError, match="must be 18 for LSTM node .* of input 7"):
        check("LSTM", [*operands("LSTM")[:7], floats(1, 17)], dynamic=[7], reference=[])


@pytest.mark.parametrize(("index", "shape"), [(1, (1, 24)), (3, (48,)), (4, (3, 1)), (5, (3, 6)), (6, (1, 3, 6, 1))])
def test_inputs_of_other_ranks(index, shape):
    inputs = operands("LSTM", lengths=[1, 5, 4], states=True)
    inputs[index] = np.ones(shape, inputs[index].dtype)
    with pytest.raises(ModelError, match=f"input {index} needs . dimensions, found|weights of 1 directions"):
        check("LSTM", inputs, const=(), reference=[])


def test_dynamic_quantize_lstm_with_an_open_bias_and_short_peepholes():
    weights = [ints(1, n, 20, dtype="int8", seed=n) for n in (7, 5)]
    scale, point = floats(1, low=0.03, high=0.06), np.zeros(1, np.int8)
    inputs = [floats(2, 3, 7), *weights, floats(1, 40), None, None, None, None, scale, point, scale, point]
    options = {"domain": "com.microsoft", "outputs": 3, "const": (1, 2, 8, 9, 10, 11), "rtol": 0.0, "atol": 2e-2}
    check_op("DynamicQuantizeLSTM", inputs, {"hidden_size": 5}, dynamic=[3], **options)
    inputs[7] = floats(1, 14)
    with pytest.raises(InputError, match=r"must be 15 for .* of input 7"):
        check_op("DynamicQuantizeLSTM", inputs, {"hidden_size": 5}, dynamic=[3, 7], reference=[], **options)
