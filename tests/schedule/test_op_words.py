"""Operators in words."""

import pytest
from sample_states import conv

from kompilo.compiler.schedule.flops import bytes_moved, flops
from kompilo.compiler.schedule.op_spec import OpSpec, Step, TensorType
from kompilo.compiler.schedule.op_words import distinct_words, op_words

RELU = Step("nn.relu", ("s0",), "float32")


def matmul(lhs, rhs, out, lhs_perm=None, rhs_perm=None) -> OpSpec:
    types = [TensorType(s, "float32") for s in (lhs, rhs, out)]
    perms = (("lhs_perm", lhs_perm or tuple(range(len(lhs)))), ("rhs_perm", rhs_perm or tuple(range(len(rhs)))))
    return OpSpec("matmul", tuple(types[:2]), (False, False), perms, types[2], types[2])


def pool(batch=1) -> OpSpec:
    attrs = {"dilation": (1, 1), "mode": "max", "pool_size": (3, 3), "strides": (2, 2)}
    data, out = TensorType((batch, 9, 9, 64), "float32"), TensorType((batch, 4, 4, 64), "float32")
    return OpSpec("pool2d", (data,), (False,), tuple(sorted(attrs.items())), out, out)


def transpose() -> OpSpec:
    types = [TensorType(s, "float32") for s in ((1, 16, 16, 24), (24, 12, 2, 2), (1, 32, 32, 12))]
    attrs = (("dilation", (1, 1)), ("groups", 1), ("strides", (2, 2)))
    return OpSpec("conv2d_transpose", tuple(types[:2]), (False, True), attrs, types[2], types[2])


@pytest.mark.parametrize(
    ("op", "words"),
    [
        (conv(64, 64), "conv 3x3 64->64 56x56"),
        (conv(32, 64, 28, 1), "conv 1x1 32->64 28x28"),
        (conv(64, 64, groups=64), "depthwise 3x3 64 56x56"),
        (conv(64, 64, groups=4), "conv 3x3 64->64 in 4 groups 56x56"),
        (transpose(), "transposed conv 2x2/2 24->12 32x32"),
        (pool(), "max pool 3x3/2 64 4x4"),
        (pool(8), "8x max pool 3x3/2 64 4x4"),
        (matmul((1, 384), (384, 1536), (1, 1536)), "matmul 1x384 by 384x1536"),
        (matmul((2, 128, 384), (384, 96), (2, 128, 96)), "matmul 256x384 by 384x96"),
        (matmul((2, 12, 8, 32), (2, 12, 32, 8), (2, 12, 8, 8)), "matmul 24x (8x32 by 32x8)"),
        (
            matmul((1, 8, 12, 32), (1, 8, 12, 32), (1, 12, 8, 8), (0, 2, 1, 3), (0, 2, 3, 1)),
            "matmul 12x (8x32 by 32x8)",
        ),
        (matmul(("b", "n", 384), (384, 96), ("b", "n", 96)), "matmul b*nx384 by 384x96"),
    ],
)
def test_words(op, words):
    assert op_words(op) == words


def test_another_kind_has_its_operands_sizes():
    out = TensorType((2, 3), "float32")
    op = OpSpec("softmax", (out, TensorType((), "float32")), (False, True), (), out, out)
    assert op_words(op) == "softmax 2x3, scalar -> 2x3"


def test_epilogues_leave_out_the_bias():
    assert op_words(conv(8, 8), epilogue=True) == "conv 3x3 8->8 56x56"
    assert op_words(conv(8, 8, steps=(RELU,)), epilogue=True) == "conv 3x3 8->8 56x56 +relu"
    clip = Step("clip", ("s0", 0.0, 6.0), "float32")
    assert op_words(conv(8, 8, steps=(clip,)), epilogue=True).endswith(" +relu6")
    long = tuple(Step("tanh", (f"s{k}",), "float32") for k in range(3))
    assert op_words(conv(8, 8, steps=long), epilogue=True).endswith(" +3 steps")


def test_no_two_operators_have_the_same_words():
    exp = [Step("multiply", ("s0", factor), "float32") for factor in (2.0, 3.0)]
    ops = [conv(8, 8), conv(8, 8, steps=(RELU,)), conv(16, 8), *(conv(8, 8, steps=(s,)) for s in exp)]
    assert distinct_words(ops) == [
        "conv 3x3 8->8 56x56",
        "conv 3x3 8->8 56x56 +relu",
        "conv 3x3 16->8 56x56",
        "conv 3x3 8->8 56x56 +multiply #1",
        "conv 3x3 8->8 56x56 +multiply #2",
    ]


def test_work():
    op = conv(4, 8, 10)
    assert flops(op) == 800 * (2 * 4 * 9 + 1)
    assert bytes_moved(op) == 4 * (400 + 8 * 4 * 9 + 8 + 800)
    symbolic = matmul(("n", 4), (4, 4), ("n", 4))
    assert bytes_moved(symbolic) is None
    flags = TensorType((3, 5), "bool")
    assert bytes_moved(OpSpec("x", (flags,), (False,), (), flags, TensorType((15,), "int64"))) == 15 + 120
