"""MatMul, Gemm and Einsum against ONNX Runtime."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kompilo.compiler.errors import ModelError

from op_test import check_op, floats, ints

BOTH = pytest.mark.parametrize("dynamic", [False, True], ids=["fixed", "dynamic"])

MATMUL = {
    "matrices": ([3, 4], [4, 5]),
    "vector vector": ([4], [4]),
    "vector matrix": ([4], [4, 5]),
    "matrix vector": ([3, 4], [4]),
    "vector batch": ([4], [2, 4, 5]),
    "batch vector": ([2, 3, 4], [4]),
    "batches": ([2, 3, 4], [2, 4, 5]),
    "batch matrix": ([2, 6, 3, 4], [4, 5]),
    "matrix batch": ([3, 4], [2, 4, 5]),
    "one row": ([1, 4], [4, 5]),
    "one by one": ([1, 1], [1, 1]),
}
BROADCAST = {
    "batch of 1": ([1, 3, 4], [2, 4, 5]),
    "crossed batches": ([2, 1, 3, 4], [1, 6, 4, 5]),
    "unequal ranks": ([3, 2, 3, 4], [2, 4, 5]),
}


@BOTH
@pytest.mark.parametrize("case", MATMUL)
def test_matmul(case, dynamic):
    a, b = MATMUL[case]
    check_op("MatMul", [floats(*a), floats(*b, seed=1)], dynamic=dynamic)


@pytest.mark.parametrize("dynamic", [False, [0]], ids=["fixed", "dynamic"])
@pytest.mark.parametrize("case", MATMUL | BROADCAST)
def test_matmul_with_a_constant(case, dynamic):
    a, b = (MATMUL | BROADCAST)[case]
    if dynamic and case in BROADCAST and case != "unequal ranks":
        return
    check_op("MatMul", [floats(*a), floats(*b, seed=1)], const=(1,), dynamic=dynamic)


@pytest.mark.parametrize("dtype", ["float64", "int32", "uint32", "int64"])
def test_matmul_dtypes(dtype):
    check_op("MatMul", [ints(3, 4, low=0, dtype=dtype), ints(4, 2, low=0, dtype=dtype)])


def test_matmul_float16_sums_in_float32():
    a, b = np.full((1, 5000), 1, "float16"), np.full((5000, 1), 1, "float16")
    check_op("MatMul", [a, b], reference=[np.array([[5000]], "float16")])


def test_matmul_of_nothing():
    check_op("MatMul", [floats(2, 0), floats(0, 3)])


def _gemm(a, b, c, attrs, **kwargs):
    inputs = [floats(*a), floats(*b, seed=1), *([floats(*c, seed=2)] if c is not None else [])]
    return check_op("Gemm", inputs, attrs, **kwargs)


@BOTH
@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("trans_a", [0, 1])
def test_gemm_transposes(trans_a, trans_b, dynamic):
    a, b = [4, 3] if trans_a else [3, 4], [5, 4] if trans_b else [4, 5]
    attrs = {"transA": trans_a, "transB": trans_b, "alpha": 0.5, "beta": 2.0}
    _gemm(a, b, [5], attrs, dynamic=[0] if dynamic else False)
    _gemm(a, b, [5], attrs, const=(1, 2), dynamic=dynamic)


@pytest.mark.parametrize("const", [(), (1, 2)], ids=["run time", "constant"])
@pytest.mark.parametrize("bias", [None, [5], [1], [1, 5], [3, 1], [3, 5], []], ids=str)
def test_gemm_bias(bias, const):
    _gemm([3, 4], [4, 5], bias, {"beta": 0.7}, const=const if bias is not None else const[:1])


def test_gemm_old_opset():
    _gemm([3, 4], [4, 5], [5], {}, opset=9)


def test_gemm_weight_is_a_constant_of_k_rows():
    imported = _gemm([3, 4], [5, 4], [5], {"transB": 1}, const=(1, 2))
    names = [str(b.value.op.name) for b in imported.mod["main"].body.blocks[0].bindings if hasattr(b.value, "op")]
    assert [n.removeprefix("relax.") for n in names][:2] == ["matmul", "add"]


def test_gemm_integers():
    inputs = [ints(3, 4, dtype="int32"), ints(4, 5, dtype="int32"), ints(5, dtype="int32")]
    check_op("Gemm", inputs, reference=[inputs[0] @ inputs[1] + inputs[2]])


EINSUM = {
    "matmul": ("ij,jk->ik", [[3, 4], [4, 5]]),
    "implicit": ("ij,jk", [[3, 4], [4, 5]]),
    "batched": ("bij,bjk->bik", [[2, 3, 4], [2, 4, 5]]),
    "attention": ("bqhd,bkhd->bhqk", [[2, 3, 2, 4], [2, 5, 2, 4]]),
    "transpose": ("ij->ji", [[3, 4]]),
    "sum": ("ijk->j", [[3, 4, 2]]),
    "total": ("ij->", [[3, 4]]),
    "trace": ("ii->", [[4, 4]]),
    "diagonal": ("iij->ji", [[3, 3, 2]]),
    "outer": ("i,j->ij", [[3], [4]]),
    "inner": ("i,i", [[4], [4]]),
    "elementwise": ("ij,ij->ij", [[3, 4], [3, 4]]),
    "summed in one operand": ("ijk,j->i", [[2, 3, 4], [3]]),
    "three operands": ("ij,jk,kl->il", [[2, 3], [3, 4], [4, 5]]),
    "ellipsis": ("...ij,...jk->...ik", [[2, 3, 4], [2, 4, 5]]),
    "ellipsis of unequal rank": ("...ij,jk->...ik", [[2, 6, 3, 4], [4, 5]]),
    "ellipsis implicit": ("...i,i", [[2, 3, 4], [4]]),
    "spaces and capitals": (" iJ , J K -> K i", [[3, 4], [4, 5]]),
    "bilinear": ("bn,anm,bm->ba", [[2, 5], [3, 5, 7], [2, 7]]),
}


@BOTH
@pytest.mark.parametrize("case", EINSUM)
def test_einsum(case, dynamic):
    equation, shapes = EINSUM[case]
    inputs = [floats(*shape, seed=i) for i, shape in enumerate(shapes)]
    check_op("Einsum", inputs, {"equation": equation}, dynamic=[0] if dynamic else False)


def test_einsum_ellipsis_broadcasts():
    # ONNX Runtime refuses this.
    a, b = floats(2, 1, 4), floats(3, 4)
    check_op("Einsum", [a, b], {"equation": "...i,...i->..."}, reference=[np.einsum("...i,...i->...", a, b)])


@settings(max_examples=12, deadline=None)
@given(
    batch=st.lists(st.integers(1, 3), max_size=2),
    m=st.integers(1, 5),
    k=st.integers(1, 6),
    n=st.integers(1, 5),
    dropped=st.integers(0, 2),
    ones=st.booleans(),
)
def test_matmul_any_batch(batch, m, k, n, dropped, ones):
    right = [1] * len(batch) if ones else batch
    check_op("MatMul", [floats(*batch, m, k), floats(*right[min(dropped, len(right)) :], k, n, seed=1)])


ERRORS = {
    "inner": ("MatMul", [[3, 4], [5, 2]], {}, "do not fit"),
    "scalar": ("MatMul", [[], [5, 2]], {}, "at least one dimension"),
    "gemm rank": ("Gemm", [[3, 4, 2], [5, 2]], {}, "need two dimensions"),
    "gemm inner": ("Gemm", [[3, 4], [5, 2]], {}, "do not fit"),
    "einsum term": ("Einsum", [[3, 4], [5, 2]], {"equation": "ijk,jk->i"}, "term 'ijk' of the equation does not fit"),
    "einsum sizes": ("Einsum", [[3, 4], [5, 2]], {"equation": "ij,jk->ik"}, "label 'j' .* has sizes 4 and 5"),
    "einsum inputs": ("Einsum", [[3, 4]], {"equation": "ij,jk->ik"}, "has 2 terms, found 1 inputs"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors(case):
    op, shapes, attrs, message = ERRORS[case]
    with pytest.raises(ModelError, match=message):
        check_op(op, [floats(*shape) for shape in shapes], attrs, reference=[np.zeros(1)])
