"""What a loaded model accepts as an input, and how it refuses the rest."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from tiny_programs import affine, affine_result, aliases, double, outer, program, two_inputs
from tvm.relax import op

import kompilo
from kompilo import load
from kompilo.compiler.element_types import array_dtype
from kompilo.compiler.errors import InputError, KompiloError

DTYPES = [
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
]  # every dtype of numpy's own


@pytest.fixture(scope="module")
def model():
    return load(affine(), threads=1)


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)


def test_positional_named_and_mapping(model, x):
    for result in (model(x), model(x=x), model.run({"x": x})["z"]):
        np.testing.assert_array_equal(result, affine_result(x))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_dtype_in_both_byte_orders(dtype, order):
    x = np.arange(32).reshape(4, 8).astype(np.dtype(dtype).newbyteorder(order))
    result = load(double(dtype), threads=1)(x)
    assert result.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(result, ~x if dtype == "bool" else x + x)


@settings(max_examples=60, deadline=None)
@given(
    offset=st.integers(0, 70),
    steps=st.tuples(st.sampled_from([-3, -1, 1, 2]), st.sampled_from([-2, -1, 1, 3])),
    transposed=st.booleans(),
    writable=st.booleans(),
    swapped=st.booleans(),
)
def test_any_alignment_strides_and_flags(model, offset, steps, transposed, writable, swapped):
    rows, columns = (8, 4) if transposed else (4, 8)
    raw = np.zeros(32 * 32 * 4 + 80, np.uint8)
    dtype = np.dtype(np.float32).newbyteorder(">") if swapped else np.dtype(np.float32)
    base = raw[offset : offset + 32 * 32 * 4].view(dtype).reshape(32, 32)
    base[...] = np.random.default_rng(offset).standard_normal((32, 32))
    view = base[:: steps[0], :: steps[1]][:rows, :columns]
    view = view.T if transposed else view
    view.flags.writeable = writable
    before = view.copy()
    np.testing.assert_array_equal(model(view), affine_result(before.astype(np.float32)))
    np.testing.assert_array_equal(view, before)


@pytest.mark.parametrize("offset", [0, 4, 16, 60])
@pytest.mark.parametrize("writable", [True, False])
def test_large_inputs_of_any_alignment(offset, writable):
    """Large inputs are used where they lie if they can be."""
    model = load(double("float32", (64, 1024)), threads=1)
    raw = np.zeros(64 * 1024 * 4 + 128, np.uint8)
    start = -raw.ctypes.data % 64 + offset
    x = raw[start : start + 64 * 1024 * 4].view(np.float32).reshape(64, 1024)
    x[...] = np.random.default_rng(0).standard_normal(x.shape)
    x.flags.writeable = writable
    for _ in range(3):
        np.testing.assert_array_equal(model(x), x + x)
    other = np.ones((64, 1024), np.float32)
    np.testing.assert_array_equal(model(other), other + other)
    np.testing.assert_array_equal(model(x[::-1]), (x + x)[::-1])


def test_scalars_and_empty_arrays():
    scalar = load(double("float32", ()), threads=1)
    for value in (np.array(1.5, np.float32), np.float32(1.5), 1.5):
        result = scalar(value)
        assert (result.shape, float(result)) == ((), 3.0)
    empty = load(double("float32", (0, 8)), threads=1)
    assert empty(np.zeros((0, 8), np.float32)).shape == (0, 8)


def test_python_values(model, x):
    np.testing.assert_array_equal(model(x.tolist()), affine_result(x))
    np.testing.assert_array_equal(model([[1] * 8] * 4), affine_result(np.ones((4, 8), np.float32)))
    np.testing.assert_array_equal(load(double("uint8"), threads=1)([[7] * 8] * 4), np.full((4, 8), 14))


def test_subclasses(model, x, tmp_path):
    mapped = np.memmap(tmp_path / "x.bin", np.float32, "w+", shape=(4, 8))
    mapped[...] = x
    for value in (mapped, x.view(np.recarray), x.view(np.matrix)):
        result = model(value)
        assert type(result) is np.ndarray
        np.testing.assert_array_equal(result, affine_result(x))


class Foreign:
    """A tensor of another library: DLPack and nothing else."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


def test_dlpack(model, x):
    np.testing.assert_array_equal(model(Foreign(x)), affine_result(x))
    np.testing.assert_array_equal(model(Foreign(x[:, ::-1])), affine_result(x[:, ::-1]))


def test_torch_if_installed(model, x):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    np.testing.assert_array_equal(model(torch.from_numpy(x)), affine_result(x))


class OnAnotherDevice:
    def __dlpack__(self, **options):
        raise BufferError("the tensor is on cuda:0")

    def __dlpack_device__(self):
        return (2, 0)


class BrokenArray:
    def __array__(self, *_, **__):
        raise RuntimeError("the file behind it is gone\nsecond line")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros((4, 8)), r"input 'x': expected float32\[4, 8\], found float64\[4, 8\]\. Hint: .*astype\('float32'\)"),
        (np.zeros((4, 8), np.int32), r"expected float32\[4, 8\], found int32\[4, 8\]"),
        (np.zeros((4, 8), np.complex64), r"found complex64\[4, 8\]"),
        (np.zeros((4, 8), object), r"found object\[4, 8\]"),
        (np.zeros((4, 7), np.float32), r"expected float32\[4, 8\], found float32\[4, 7\]"),
        (np.zeros((8, 4), np.float32), r"found float32\[8, 4\]"),
        (np.zeros(32, np.float32), r"found float32\[32\]"),
        (np.zeros((1, 4, 8), np.float32), r"found float32\[1, 4, 8\]"),
        (np.zeros((4, 0), np.float32), r"found float32\[4, 0\]"),
        (np.float32(0), r"found float32\[\]"),
        ([[1.0, 2.0], [3.0]], "expected an array, found list"),
        ([["a"] * 8] * 4, r"found str"),
        ("text", r"found str"),
        (None, r"found object\[\]"),
        (object(), r"found object\[\]"),
        ([[1j] * 8] * 4, r"found complex128"),
        (np.ma.masked_array(np.zeros((4, 8), np.float32), True), "found a masked one"),
        (OnAnotherDevice(), r"expected a CPU tensor .* \(the tensor is on cuda:0\)"),
        (BrokenArray(), r"expected an array, found BrokenArray \(the file behind it is gone\)"),
    ],
)
def test_refusals(model, x, value, message):
    with pytest.raises(InputError, match=message) as caught:
        model(value)
    assert "\n" not in str(caught.value)
    np.testing.assert_array_equal(model(x), affine_result(x))


def test_no_float_for_an_int_and_no_number_out_of_range():
    model = load(double("int8"), threads=1)
    with pytest.raises(InputError, match=r"expected int8\[4, 8\], found float64\[4, 8\]"):
        model([[1.5] * 8] * 4)
    with pytest.raises(InputError, match="outside the range of int8"):
        model([[200] * 8] * 4)
    with pytest.raises(InputError, match="outside the range of float32"):
        load(double("float32"), threads=1)([[1e300] * 8] * 4)
    with pytest.raises(InputError, match="outside the range of float16"):
        load(double("float16"), threads=1)([[70000] * 8] * 4)


def test_not_a_number_and_infinity_are_values():
    for value in (float("nan"), float("inf"), -float("inf")):
        result = load(double("float32"), threads=1)([[value] * 8] * 4)
        np.testing.assert_array_equal(result, np.full((4, 8), value, np.float32))


@pytest.mark.parametrize(
    ("arguments", "named", "message"),
    [
        ((), {}, "the input 'a', 'b' is missing"),
        ((1,), {}, "the input 'b' is missing"),
        ((1, 2, 3), {}, "the model takes 2 inputs .*found 3"),
        ((1,), {"a": 1}, "the input 'a' is given twice"),
        ((1,), {"c": 1}, r"has no input 'c' \(expected a, b\)"),
        ((), {"a": 1, "c": 1}, "has no input 'c'"),
    ],
)
def test_wrong_names_and_counts(arguments, named, message):
    with pytest.raises(InputError, match=message):
        load(two_inputs(), threads=1)(*arguments, **named)


def test_run_wants_a_mapping(model, x):
    with pytest.raises(InputError, match="expected a mapping of input names to arrays, found ndarray"):
        model.run(x)


def test_dynamic_dimensions_agree_between_inputs():
    model = load(two_inputs(), threads=1)
    for size in (1, 3, 2, 700, 3):
        a = np.random.default_rng(size).standard_normal((size, 8)).astype(np.float32)
        total, difference = model(a, a[::-1])
        np.testing.assert_array_equal(total, a + a[::-1])
        np.testing.assert_array_equal(difference, a - a[::-1])
        results = model.run({"b": a, "a": a})
        assert list(results) == ["total", "difference"]
    a = np.zeros((3, 8), np.float32)
    with pytest.raises(InputError, match=r"input 'b': the dimension 'N' \(axis 0\) is 2, but 3 in 'a'"):
        model(a, a[:2])
    with pytest.raises(InputError, match=r"input 'a': the dimension 'N' \(axis 0\) must be at least 1, found 0"):
        model(a[:0], a[:0])
    with pytest.raises(InputError, match=r"input 'b': expected float32\[N, 8\], found float32\[3, 7\]"):
        model(a, a[:, :7])
    np.testing.assert_array_equal(model(a, a)[0], a)


def test_more_memory_than_there_is():
    """A result of 4 PB: an error, and the model goes on working."""
    model = load(outer(), threads=1)
    x = np.broadcast_to(np.float32(1), (1, 8))
    np.testing.assert_array_equal(model(x), [[8.0]])
    with pytest.raises(InputError, match="not enough memory for inputs of these sizes"):
        model(np.zeros((32_000_000, 8), np.float32))
    np.testing.assert_array_equal(model(x), [[8.0]])


def test_an_input_that_fits_no_buffer():
    """No memory of its own, but 32 PB when copied: an error, and the other input's new buffer is not forgotten."""
    specs = [("a", ("N", 8), "float32"), ("b", ("M", 8), "float32")]
    model = load(program(lambda a, b: (op.add(a, a), op.add(b, b)), specs, specs), threads=1)
    one, two = np.ones((1, 8), np.float32), np.full((2, 8), 5, np.float32)
    huge = np.broadcast_to(np.float32(1), (10**15, 8))
    for values in ((one, one), (two, huge), (two, one), (huge, two), (two, one)):
        if any(value is huge for value in values):
            with pytest.raises(InputError, match="not enough memory for inputs of these sizes"):
                model(*values)
        else:
            for result, value in zip(model(*values), values, strict=True):
                np.testing.assert_array_equal(result, value + value)


def test_results_share_memory_with_nothing():
    model = load(aliases(), threads=1)
    x = np.arange(8, dtype=np.float32).reshape(1, 8)
    first = model(x)
    wanted = [array.copy() for array in first]
    for index, array in enumerate(first):
        assert not np.shares_memory(array, x)
        assert not any(np.shares_memory(array, other) for other in first[index + 1 :])
        array[...] = -1
    np.testing.assert_array_equal(x, np.arange(8).reshape(1, 8))
    for array, value in zip(model(x), wanted, strict=True):
        np.testing.assert_array_equal(array, value)


def test_a_large_input_that_is_a_result_too():
    spec = ((64, 1024), "float32")
    model = load(program(lambda x: (x, op.add(x, x)), [("x", *spec)], [("same", *spec), ("sum", *spec)]), threads=1)
    raw = np.ones(64 * 1024 + 16, np.float32)
    start = (-raw.ctypes.data % 64) // 4
    x = raw[start : start + 64 * 1024].reshape(64, 1024)
    same, total = model(x)
    assert not np.shares_memory(same, x)
    x[...] = 5
    assert (same == 1).all()
    assert (total == 2).all()


def test_results_live_on_through_later_calls_and_the_model(x):
    model = load(affine(), threads=1)
    kept = [(model(x * i), affine_result(x * i)) for i in range(20)]
    del model
    for found, wanted in kept:
        assert found.flags.writeable
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (2, 0, 4)])
def test_empty_inputs_of_fixed_shape(shape):
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value], [out])
    module = kompilo.load(kompilo.compile(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])))
    for x in (np.zeros(shape, np.float32), np.zeros(shape[::-1], np.float32).T):
        assert module(x).shape == shape


@pytest.mark.parametrize("size", [5, 9000])  # copied, and used where it lies
def test_bfloat16_arrays_come_and_go(size):
    dtypes = pytest.importorskip("ml_dtypes")
    module = load_negation(TensorProto.BFLOAT16)
    x = np.linspace(-3, 3, size).astype(dtypes.bfloat16)
    for value in (x, np.stack([x, x], 1)[:, 1], x.view("V2"), x.astype(np.float32).tolist()):
        found = module(value)
        assert found.dtype == dtypes.bfloat16
        np.testing.assert_array_equal(found.astype(np.float32), -x.astype(np.float32))
    with pytest.raises(InputError, match="expected bfloat16"):
        module(x.astype(np.float16))


def test_arrays_of_narrow_types_come_and_go():
    dtypes = pytest.importorskip("ml_dtypes")
    module = load_negation(TensorProto.INT4, "Identity")
    found = module([1, -8, 7])
    assert found.dtype == dtypes.int4
    np.testing.assert_array_equal(found.astype(int), [1, -8, 7])
    with pytest.raises(InputError, match="outside the range of int4"):
        module([1, 9, 7])
    with pytest.raises(InputError, match="expected int4"):
        module([1.5, 2.0])
    with pytest.raises(InputError, match="expected int4"):
        module(np.zeros(3, np.int8))


def test_types_of_ml_dtypes_need_it(monkeypatch):
    pytest.importorskip("ml_dtypes")
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(KompiloError, match="numpy has bfloat16 only with the package ml_dtypes"):
        array_dtype("bfloat16")


def load_negation(code, op="Neg"):
    value, out = (helper.make_tensor_value_info(name, code, ["n"]) for name in "xy")
    graph = helper.make_graph([helper.make_node(op, ["x"], ["y"])], "g", [value], [out])
    return kompilo.load(kompilo.compile(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])))
