"""Attention operators of the domain com.microsoft against ONNX Runtime."""

import numpy as np
import pytest
from onnx import helper

pytest.importorskip("onnxruntime", reason="what ONNX Runtime has is compared with ONNX Runtime")

from kompilo.compiler.errors import ModelError

from op_test import check_op, floats, i64, make_model, reference_outputs

MS = "com.microsoft"
B, S, N, H = 2, 4, 3, 5
D = N * H


def i32(*values):
    return np.array(values, np.int32)


def mask(*shape):
    """Zeros and ones; each row has a one, for a row that sees nothing is told by roundings only."""
    found = (np.random.default_rng([7, *shape]).random(shape) > 0.4).astype(np.int32)
    found[..., 1] = 1
    return found


def run(op, inputs, attrs, outputs=1):
    """What ONNX Runtime computes for one node."""
    named = {f"x{i}": x for i, x in enumerate(inputs) if x is not None}
    names = [f"x{i}" if x is not None else "" for i, x in enumerate(inputs)]
    results = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(op, names, results, domain=MS, **attrs)
    return reference_outputs(make_model([node], named, results, domain=MS), named)


X, W, BIAS = floats(B, S, 7), floats(7, 3 * D, seed=1), floats(3 * D, seed=2)
HEADS = {"num_heads": N}
CAUSAL = HEADS | {"unidirectional": 1}
PAST = floats(2, B, N, 6, H)
ATTENTION = {
    "plain": ([X, W, BIAS], HEADS, {"const": (1, 2)}),
    "scale": ([X, W, BIAS], HEADS | {"scale": 0.3}),
    "open": ([X, W, BIAS, mask(B, S)], HEADS, {"const": (1, 2), "dynamic": (0, 3)}),
    "causal": ([X, W, BIAS], CAUSAL, {"const": (1, 2), "dynamic": (0,)}),
    "causal_mask": ([X, W, BIAS, i32([1, 1, 1, 0], [1, 1, 1, 1])], CAUSAL | {"mask_filter_value": -5.0}),
    "mask_of_rows": ([X, W, BIAS, mask(B, S, S)], HEADS),
    "lengths": ([X, W, BIAS, i32(2, 3)], HEADS, {"dynamic": (0, 3)}),
    "ends_and_starts": ([X, W, BIAS, i32(2, 4, 0, 1)], HEADS),
    "lengths_and_sums": ([X, W, BIAS, i32(2, 3, 0, 4, 8, 0, 2, 5)], HEADS),
    "past": ([X, W, BIAS, None, PAST], HEADS, {"outputs": 2}),
    "past_causal": ([X, W, BIAS, mask(B, 10), PAST], CAUSAL, {"outputs": 2}),
    "past_open": ([X, W, BIAS, None, PAST], CAUSAL, {"outputs": 2, "const": (1, 2), "dynamic": (4,)}),
    "bias_of_scores": ([X, W, BIAS, None, None, floats(1, N, S, S)], HEADS),
    "bias_of_samples": ([X, W, BIAS, mask(B, S), None, floats(B, 1, S, S)], HEADS),
    "wide_values": ([X, floats(7, 2 * D + 6), floats(2 * D + 6)], HEADS | {"qkv_hidden_sizes": [D, D, 6]}),
}  # fmt: skip


@pytest.mark.parametrize("case", ATTENTION)
def test_attention(case):
    inputs, attrs, more = (*ATTENTION[case], {})[:3]
    check_op("Attention", inputs, attrs, domain=MS, rtol=1e-4, atol=1e-4, **more)


Q, K, V = (floats(B, S, D, seed=seed) for seed in range(3))
OPEN = dict.fromkeys(range(3), (0, 1))
FILLED = HEADS | {"mask_filter_value": -3.0}
LONG = [floats(B, 6, D, seed=3), floats(B, 6, 2 * N, seed=4)]
APART = [floats(B, N, 6, H), floats(B, N, 6, H, seed=1)]
PASTS = [floats(B, N, 3, H), floats(B, N, 3, H, seed=1)]
MULTI_HEAD = {
    "plain": ([Q, K, V], HEADS),
    "bias": ([Q, K, V, BIAS], HEADS, {"outputs": 3, "const": (3,), "dynamic": OPEN}),
    "cross": ([Q, *LONG], HEADS | {"scale": 0.4}, {"dynamic": OPEN}),
    "keys_apart": ([Q, *APART, BIAS], HEADS),
    "causal": ([Q, K, V], CAUSAL),
    "past": ([Q, K, V, None, None, None, *PASTS], HEADS, {"outputs": 3, "dynamic": (6, 7)}),
    "past_causal": ([Q, K, V, None, mask(B, 7), None, *PASTS], CAUSAL, {"outputs": 3}),
    "mask_of_rows": ([Q, K, V, None, mask(B, S, 7), None, *PASTS], HEADS, {"outputs": 3}),
    "lengths": ([Q, K, V, None, i32(5, 7), floats(1, 1, S, 7), *PASTS], FILLED, {"outputs": 3}),
    "lengths_and_sums": ([Q, K, V, None, i32(2, 3, 0, 4, 8, 0, 2, 5)], HEADS),
    "buffer": ([Q[:, :1], K[:, :1], V[:, :1], None, None, None, *PASTS, i32(1)], HEADS, {"outputs": 3}),
    "buffer_mask": (
        [Q[:, :2], K[:, :2], V[:, :2], None, i32([1, 0, 1], [1, 1, 1]), None, *PASTS, i32(1)],
        CAUSAL,
        {"outputs": 3},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MULTI_HEAD)
def test_multi_head_attention(case):
    inputs, attrs, more = (*MULTI_HEAD[case], {})[:3]
    check_op("MultiHeadAttention", inputs, attrs, domain=MS, rtol=1e-4, atol=1e-4, **more)


def test_packed_operands():
    """ONNX Runtime has kernels of them for GPUs only: the same as of operands apart."""
    q, k, v = (x.reshape(B, S, N, H) for x in (Q, K, V))
    expected = run("MultiHeadAttention", [Q, K, V, BIAS], HEADS)
    for inputs in ([np.stack([q, k, v], 3), None, None, BIAS], [Q, np.stack([k, v], 3), None, BIAS]):
        check_op("MultiHeadAttention", inputs, HEADS, domain=MS, rtol=1e-4, atol=1e-4, reference=expected[:1])


def test_attention_of_a_square_mask():
    square = mask(B, 1, 12, 12)
    expected = run("Attention", [X, W, BIAS, square[:, 0, 6:10, :10].copy(), PAST], HEADS, outputs=2)
    check_op(
        "Attention", [X, W, BIAS, square, PAST], HEADS, domain=MS, outputs=2, rtol=1e-4, atol=1e-4, reference=expected
    )


def test_attention_without_a_bias():
    expected = run("Attention", [X, W, 0 * BIAS], HEADS)
    check_op("Attention", [X, W], HEADS, domain=MS, rtol=1e-4, atol=1e-4, reference=expected)


def test_attention_into_a_buffer():
    """Places of the buffer behind the new keys do not count."""
    expected, _ = run("Attention", [X, W, BIAS, None, PAST[:, :, :, :2].copy()], CAUSAL, outputs=2)
    _, present = run("Attention", [X, W, BIAS, None, PAST[:, :, :, :2].copy()], CAUSAL, outputs=2)
    attrs = CAUSAL | {"past_present_share_buffer": 1}
    check_op(
        "Attention",
        [X, W, BIAS, None, PAST, None, i32(2)],
        attrs,
        domain=MS,
        outputs=2,
        rtol=1e-4,
        atol=1e-4,
        reference=[expected, present],
    )


def test_scores_of_multi_head_attention_in_float16():
    inputs = [x.astype("float16") for x in (Q, K, V)]
    check_op("MultiHeadAttention", inputs, CAUSAL, domain=MS, rtol=1e-2, atol=1e-2)


GROUPS = {"num_heads": 4, "kv_num_heads": 2}
WIDE = 16
GQ, GK, GV = floats(B, S, 4 * WIDE), floats(B, S, 2 * WIDE, seed=1), floats(B, S, 2 * WIDE, seed=2)
CACHE = [floats(B, 2, 9, WIDE, seed=3), floats(B, 2, 9, WIDE, seed=4)]
SHORT = [x[:, :, :3].copy() for x in CACHE]
FULL, LENGTH = i32(S - 1, S - 1), i32(S).reshape(())
FIRST = [GQ, GK, GV, None, None, FULL, LENGTH]
NEXT = [*(x[:, :1] for x in (GQ, GK, GV)), *CACHE, i32(6, 4), i32(7)]
MORE = [x[:1] for x in (GQ, GK, GV, *CACHE)] + [i32(6), i32(7)]
TABLES = [floats(12, WIDE // 2, seed=5), floats(12, WIDE // 2, seed=6)]
ROTARY = GROUPS | {"do_rotary": 1}
IDS = np.array([[3, 4, 5, 6], [0, 1, 2, 3]])
GROUP_QUERY = {
    "first_open": (FIRST, {"scale": 0.3}, {"dynamic": {0: (0, 1), 1: (0, 1), 2: (0, 1), 5: (0,)}}),
    "packed": (
        [np.concatenate([GQ, GK, GV], -1), None, None, None, None, FULL, LENGTH],
        {"local_window_size": 3, "smooth_softmax": 1},
    ),
    "padded": ([GQ, GK, GV, None, None, i32(1, 3), LENGTH], {}),
    "padded_both_ways": ([GQ, GK, GV, None, None, i32(1, 3), LENGTH], {"causal": 0}),
    "total_is_data": (NEXT, {}, {"dynamic": {3: (0, 2), 4: (0, 2), 0: (0,)}}),
    "growing": ([*NEXT[:3], *SHORT, i32(3, 3), i32(4)], {}, {"dynamic": {3: (2,), 4: (2,)}}),
    "softcap_bias_and_sink": (
        [*MORE, None, None, None, floats(1, 4, S, 7), floats(4)],
        {"softcap": 1.5, "local_window_size": 2},
        {"const": (6,)},
    ),
    "rotary": ([*NEXT, *TABLES], {"do_rotary": 1, "rotary_interleaved": 1}, {"const": (6, 7, 8)}),
    "rotary_first_ids": ([*FIRST, *TABLES, IDS], {"do_rotary": 1}),
    "rotary_ids": ([*MORE, *TABLES, i64(5, 2, 7, 1)[None]], {"do_rotary": 1}, {"const": (6, 7, 8)}),
}  # fmt: skip


@pytest.mark.parametrize("case", GROUP_QUERY)
def test_group_query_attention(case):
    inputs, attrs, more = (*GROUP_QUERY[case], {})[:3]
    check_op("GroupQueryAttention", inputs, GROUPS | attrs, domain=MS, outputs=3, rtol=1e-4, atol=1e-4, **more)


@pytest.mark.parametrize("kind", [1, 2])
def test_scores_of_group_query_attention(kind):
    attrs = GROUPS | {"qk_output": kind}
    check_op("GroupQueryAttention", MORE, attrs, domain=MS, outputs=4, const=(6,), rtol=1e-4, atol=1e-4)


def test_normalised_heads():
    """ONNX Runtime has a kernel of it for GPUs only: the same as of heads that are normalised before."""
    weights = [floats(WIDE, seed=7), floats(WIDE, seed=8)]

    def norm(x, weight):
        apart = x.reshape(*x.shape[:2], -1, WIDE)
        return (apart / np.sqrt((apart**2).mean(-1, keepdims=True) + 1e-6) * weight).reshape(x.shape)

    inputs = [norm(GQ, weights[0]), norm(GK, weights[1]), *FIRST[2:]]
    expected = run("GroupQueryAttention", inputs, GROUPS, outputs=3)
    inputs = [*FIRST, *[None] * 7, *weights]
    check_op("GroupQueryAttention", inputs, GROUPS, domain=MS, outputs=3, rtol=1e-4, atol=1e-4, reference=expected)


SMALL = [floats(9, H, seed=5), floats(9, H, seed=6)]
ROWS = [floats(B, S, N * 2 * H), np.array([[1, 0, 3, 8], [2, 4, 4, 1]])]
EMBEDDING = {
    "flat": ([*ROWS, *SMALL], {}, {"const": (2, 3), "dynamic": {0: (0, 1), 1: (0, 1)}}),
    "interleaved": ([*ROWS, *SMALL], {"interleaved": 1}),
    "offset": ([ROWS[0], i64(4), *SMALL], {}),
    "apart": ([floats(B, N, S, 2 * H), ROWS[1], *SMALL], {}),
    "partial": ([floats(B, S, N * 14), ROWS[1], *SMALL], {"num_heads": N, "rotary_embedding_dim": 2 * H}),
}


@pytest.mark.parametrize("case", EMBEDDING)
def test_rotary_embedding(case):
    inputs, attrs, more = (*EMBEDDING[case], {})[:3]
    check_op("RotaryEmbedding", inputs, attrs, domain=MS, rtol=1e-4, atol=1e-5, **more)


REFUSED = [
    ("Attention", [X, W, BIAS], HEADS | {"do_rotary": 1}, "'do_rotary' must be 0"),
    ("Attention", [X, W, BIAS], {}, "attribute 'num_heads' is required"),
    ("Attention", [X, W, BIAS], {"num_heads": 0}, "'num_heads' must be positive, found 0"),
    ("Attention", [X, W, BIAS], {"num_heads": 2}, "multiple of 2 heads, found 15"),
    ("Attention", [X, W, BIAS], HEADS | {"qkv_hidden_sizes": [15, 14, 16]}, "'qkv_hidden_sizes' must be"),
    ("Attention", [X, W, BIAS, mask(B, 3)], HEADS, "input 3 needs 4 elements on axis 1, found 3"),
    ("Attention", [X, W, BIAS, i32(1, 2, 3)], HEADS, "number of lengths in input 3"),
    ("MultiHeadAttention", [Q], HEADS, "query, key and value need 3 dimensions each"),
    ("MultiHeadAttention", [Q, *LONG], CAUSAL, "number of keys of unidirectional attention"),
    ("MultiHeadAttention", [Q, K, V, BIAS[:-1]], HEADS, "input .bias. must be as long"),
    ("MultiHeadAttention", [Q, K, V, None, None, None, *PASTS, i32(1), mask(B, 1, 3)], HEADS, "'cache_indirection'"),
    ("GroupQueryAttention", FIRST, {"num_heads": 4, "kv_num_heads": 3}, "must be a multiple of 'kv_num_heads'"),
    ("GroupQueryAttention", FIRST, ROTARY, "'do_rotary' asks for"),
    ("GroupQueryAttention", FIRST, GROUPS | {"k_quant_type": "PER_TENSOR"}, "'k_quant_type' must be one of NONE"),
    ("GroupQueryAttention", FIRST, GROUPS | {"sliding_window_cache": 1}, "'sliding_window_cache' must be 0"),
    ("GroupQueryAttention", FIRST, GROUPS | {"causal": 0, "local_window_size": 2}, "'local_window_size' must be -1"),
    ("RotaryEmbedding", [*ROWS, *SMALL], {"is_packed_batching": 1}, "'is_packed_batching' and 'scale'"),
    ("RotaryEmbedding", [*ROWS, *SMALL], {"rotary_embedding_dim": 2 * H}, "asks for a positive 'num_heads'"),
]  # fmt: skip


@pytest.mark.parametrize(("op", "inputs", "attrs", "message"), REFUSED)
def test_refused(op, inputs, attrs, message):
    with pytest.raises(ModelError, match=message):
        check_op(op, inputs, attrs, domain=MS, reference=[])
