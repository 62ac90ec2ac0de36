"""Operators on the host give what ONNX's text and ONNX Runtime have, where the onnx package's own version does not."""

import io
import itertools

import numpy as np
import onnxruntime
import pytest
from host_models import BOOL, FLOAT, INT64, STRING, UINT8, model, node, optional, sequence, tensor
from onnx import TensorProto, helper

import kompilo
from kompilo.errors import KompiloError, ModelError


def run(proto, *values):
    """The outputs of a model for its inputs; one that is alone as it is."""
    artifact = kompilo.compile(proto, records=False)
    assert all(segment.on_host for segment in artifact.segments), artifact.segments
    return kompilo.load(artifact)(*values)


def strings(*words):
    return np.array(words, object)


def against_onnxruntime(proto, *values):
    feeds = dict(zip((i.name for i in proto.graph.input), values, strict=True))
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    ours = run(proto, *values)
    for y, wanted in zip(ours if isinstance(ours, tuple) else (ours,), session.run(None, feeds), strict=True):
        np.testing.assert_array_equal(y, wanted)
        assert y.dtype == wanted.dtype


S, Y = tensor("s", STRING, ["n"]), tensor("y", STRING, None)
WORDS = strings("Monday", "monday morning", "", "é Ü", "tuesday", "MONDAY")


@pytest.mark.parametrize("sensitive", [0, 1])
@pytest.mark.parametrize("case", ["NONE", "LOWER", "UPPER"])
def test_string_normalizer(case, sensitive):
    """Stop words are whole elements; accents and empty strings stay."""
    options = {"case_change_action": case, "is_case_sensitive": sensitive, "stopwords": ["monday"]}
    proto = model([node("StringNormalizer", "s", "y", locale="C.UTF-8", **options)], [S], [Y])
    against_onnxruntime(proto, WORDS)


def test_string_normalizer_leaves_one_empty_string():
    row = tensor("s", STRING, [1, "n"])
    proto = model([node("StringNormalizer", "s", "y", stopwords=["a"])], [row], [Y])
    assert run(proto, [["a", "A", "a"]]).tolist() == [[""]]
    with pytest.raises(
        KompiloError, match=r"StringNormalizer node 'Y' .* expected a tensor of shape \[C\] or \[1, C\]"
    ):
        run(model([node("StringNormalizer", "s", "y")], [tensor("s", STRING, [2, "n"])], [Y]), [["a"], ["b"]])


@pytest.mark.parametrize("pattern", [r"\w+", r"[a-z]+$", r"\d+", "a.c", r"(?:ab|c){1,2}", r"\bab\b c", "[^a-c]*"])
def test_regex_full_match(pattern):
    """Classes are of ASCII: no letters and digits of other languages."""
    proto = model([node("RegexFullMatch", "s", "y", pattern=pattern)], [S], [tensor("y", BOOL, None)])
    against_onnxruntime(proto, strings("é", "abc", "٣", "ABC", "a\nc", "12", "abc\n", "abc", "ab c", "", "cab"))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("mode", ["TF", "IDF", "TFIDF"])
def test_tf_idf_vectorizer(mode, weighted):
    """Weights belong to n-grams, whose places in the output are in another order."""
    options = {"weights": [0.5, 2.0, 3.0, 0.25]} if weighted else {}
    vectorizer = node(
        "TfIdfVectorizer", "x", "y", mode=mode, min_gram_length=1, max_gram_length=2, max_skip_count=1,
        ngram_counts=[0, 2], ngram_indexes=[2, 0, 3, 1], pool_int64s=[5, 4, 5, 4, 1, 1], **options,
    )  # fmt: skip
    proto = model([vectorizer], [tensor("x", INT64, [2, 5])], [tensor("y", FLOAT, None)])
    against_onnxruntime(proto, np.array([[5, 4, 1, 1, 5], [1, 5, 2, 4, 4]]))


@pytest.mark.parametrize("attributes", [{}, {"delimiter": ","}, {"delimiter": ", ", "maxsplit": 1}])
def test_string_split(attributes):
    split = node("StringSplit", "s", "y z", **attributes)
    against_onnxruntime(
        model([split], [S], [Y, tensor("z", INT64, None)]), strings("a b  c", "x,y,,z", " lead", "p, q, r")
    )


def test_label_encoder():
    encoder = node("LabelEncoder", "s", "y", domain="ai.onnx.ml", keys_strings=["a", "b"], values_int64s=[3, 4])
    against_onnxruntime(model([encoder], [S], [tensor("y", INT64, None)]), strings("b", "c", "a"))
    encoder = node("LabelEncoder", "x", "y", domain="ai.onnx.ml", keys_floats=[1.1, 2], values_strings=["one", "two"])
    against_onnxruntime(model([encoder], [tensor("x", FLOAT, ["n"])], [Y]), np.array([2, 1.1, 0], np.float32))


def test_slice():
    """Starts and ends beyond both sides, forwards and backwards."""
    given = [tensor(name, INT64, [1]) for name in ("starts", "ends", "axes", "steps")]
    proto = model([node("Slice", "s starts ends axes steps", "y")], [tensor("s", STRING, [4]), *given], [Y])
    module = kompilo.load(kompilo.compile(proto, records=False))
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    words = strings(*"abcd")
    names = [info.name for info in given]
    for start, end, step in itertools.product(
        (-9, -5, -4, -1, 0, 2, 4, 9), (-(2**63), -6, -5, -1, 0, 3, 9), (-2, -1, 1, 3)
    ):
        values = dict(zip(names, (np.array([value]) for value in (start, end, 0, step)), strict=True))
        wanted = session.run(None, {"s": words, **values})[0]
        assert module(words, **values).tolist() == wanted.tolist(), (start, end, step)


ITEMS = [np.array([1, 2], np.float32), np.array([[3.0]], np.float32)]
T = np.array([7.0, 8.0, 9.0], np.float32)


@pytest.mark.parametrize(("place", "index"), [(None, 2), (0, 0), (1, 1), (2, 2), (-1, 1), (-2, 0)])
def test_sequence_insert(place, index):
    """The position that is the length is the end."""
    inputs = [sequence("q", FLOAT), tensor("t", FLOAT, [3])] + ([tensor("p", INT64, [])] if place is not None else [])
    insert = node("SequenceInsert", " ".join(i.name for i in inputs), "y")
    values = [ITEMS, T, *([np.array(place)] if place is not None else [])]
    result = run(model([insert], inputs, [sequence("y", FLOAT)]), *values)
    assert len(result) == 3
    np.testing.assert_array_equal(result[index], T)
    assert len(ITEMS) == 2


@pytest.mark.parametrize(
    ("op", "values", "message"),
    [
        ("SequenceAt", [ITEMS, np.array(2)], "position 2 of a sequence of 2"),
        ("SequenceAt", [ITEMS, np.array(-3)], "position -3 of a sequence of 2"),
        ("SequenceInsert", [ITEMS, T, np.array(3)], "position 3 of a sequence of 2"),
        ("SequenceErase", [ITEMS, np.array(2)], "out of range"),
        ("SplitToSequence", [T, np.array([1, 1])], r"parts of sizes \[1, 1\] for an axis of 3"),
        ("SplitToSequence", [T, np.array(0)], "parts of size 0"),
    ],
)
def test_what_cannot_run_is_told_in_a_sentence(op, values, message):
    kinds = [sequence("a", FLOAT) if isinstance(values[0], list) else tensor("a", FLOAT, [3])]
    kinds += [tensor("bc"[k], FLOAT if v is T else INT64, v.shape) for k, v in enumerate(values[1:])]
    output = tensor("y", FLOAT, None) if op == "SequenceAt" else sequence("y", FLOAT)
    with pytest.raises(KompiloError, match=f"^{op} node 'Y' cannot run on these inputs: .*{message}.*\\.$"):
        run(model([node(op, " ".join(k.name for k in kinds), "y")], kinds, [output]), *values)


def test_sequence_map():
    """Further inputs may be sequences and tensors at once; an empty sequence gives an empty one."""
    body = helper.make_graph(
        [node("Add", "a b", "ab"), node("Mul", "ab c", "abc")],
        "body",
        [tensor(name, FLOAT, None) for name in "abc"],
        [tensor("abc", FLOAT, None)],
    )
    inputs = [sequence("p", FLOAT), sequence("q", FLOAT), tensor("t", FLOAT, [1])]
    proto = model([node("SequenceMap", "p q t", "y", body=body)], inputs, [sequence("y", FLOAT)])
    p, q = [np.ones(2, np.float32), np.ones(3, np.float32)], [np.full(2, 2, np.float32), np.full(3, 3, np.float32)]
    first, second = run(proto, p, q, np.array([10], np.float32))
    np.testing.assert_array_equal(first, [30, 30])
    np.testing.assert_array_equal(second, [40, 40, 40])
    assert run(proto, [], [], np.array([10], np.float32)) == []


@pytest.mark.parametrize("conditioned", [False, True])
def test_loop_over_a_sequence(conditioned):
    """Scan outputs get a new axis whatever their number of dimensions; without a condition a loop goes on."""
    nodes = [
        node("SequenceAt", "q step", "item"),
        node("ReduceMax", "item", "most", keepdims=0),
        node("Add", "item item", "twice"),
        node("SequenceInsert", "so_far twice", "more"),
        node("Less", "most limit", "alive"),
    ]
    body = helper.make_graph(
        nodes,
        "body",
        [tensor("step", INT64, []), tensor("going", BOOL, []), sequence("so_far", FLOAT)],
        [tensor("alive", BOOL, []), sequence("more", FLOAT), tensor("most", FLOAT, []), tensor("twice", FLOAT, None)],
    )
    inputs = [sequence("q", FLOAT, [2, 2]), tensor("count", INT64, []), tensor("limit", FLOAT, [])]
    inputs += [tensor("start", BOOL, [])] if conditioned else []
    loop = helper.make_node("Loop", ["count", "start" if conditioned else "", "none"], ["all", "m", "t"], body=body)
    outputs = [sequence("all", FLOAT), tensor("m", FLOAT, None), tensor("t", FLOAT, None)]
    proto = model([node("SequenceEmpty", "", "none"), loop], inputs, outputs)
    items = [np.full((2, 2), k, np.float32) for k in (1, 5, 3)]
    values = [items, np.array(3), np.array(4, np.float32), *([np.array(True)] if conditioned else [])]
    every, most, twice = run(proto, *values)
    np.testing.assert_array_equal(every, np.stack(items[:2]) * 2)
    np.testing.assert_array_equal(most, np.array([1, 5], np.float32))
    np.testing.assert_array_equal(twice, np.stack(items[:2]) * 2)


def test_optionals():
    """A value that may not be there is asked for, taken out, and handed on."""
    given = optional("o", FLOAT, [2])
    nodes = [node("OptionalHasElement", "o", "there"), node("Identity", "o", "same")]
    proto = model(nodes, [given], [tensor("there", BOOL, None), optional("same", FLOAT, [2])])
    there, same = run(proto, None)
    assert (bool(there), same) == (False, None)
    value = np.array([1, 2], np.float32)
    there, same = run(proto, value)
    assert there
    np.testing.assert_array_equal(same, value)
    assert not np.shares_memory(same, value)
    get = model([node("OptionalGetElement", "o", "y")], [given], [tensor("y", FLOAT, None)])
    with pytest.raises(KompiloError, match="OptionalGetElement node 'Y' .* the optional value is not there"):
        run(get, None)


def picture(mode: str, color, kind: str) -> np.ndarray:
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed").new(mode, (3, 2), color)
    file = io.BytesIO()
    image.save(file, kind)
    return np.frombuffer(file.getvalue(), np.uint8)


RED = (200, 10, 30)


@pytest.mark.parametrize(
    ("mode", "color", "kind", "pixels", "pixel"),
    [
        ("RGBA", (*RED, 128), "PNG", "RGB", RED),
        ("RGB", RED, "BMP", "BGR", RED[::-1]),
        ("L", 77, "PNG", "RGB", (77, 77, 77)),
        ("P", 0, "PNG", "RGB", (0, 0, 0)),
        ("1", 1, "PNG", "Grayscale", (255,)),
    ],
)
def test_image_decoder(mode, color, kind, pixels, pixel):
    """Whatever lies in the file, the result has the channels of the pixel format."""
    bytes_in, out = tensor("x", UINT8, ["n"]), tensor("y", UINT8, None)
    proto = model([node("ImageDecoder", "x", "y", pixel_format=pixels)], [bytes_in], [out])
    result = run(proto, picture(mode, color, kind))
    assert result.shape == (2, 3, len(pixel))
    assert (result == np.array(pixel, np.uint8)).all()


def test_images_that_cannot_be_decoded():
    """An empty image, as ONNX's text has it; an error where decoding would lose bits."""
    proto = model([node("ImageDecoder", "x", "y")], [tensor("x", UINT8, ["n"])], [tensor("y", UINT8, None)])
    good = picture("RGB", RED, "PNG")
    assert run(proto, good[:40]).shape == (0, 0, 3)
    assert run(proto, np.zeros(8, np.uint8)).shape == (0, 0, 3)
    with pytest.raises(KompiloError, match="images of Pillow's mode I;16 have no 8 bits a channel"):
        run(proto, picture("I;16", 300, "PNG"))


def test_what_the_evaluator_cannot_be_made_of_is_refused_when_compiling():
    broken = node(
        "TfIdfVectorizer", "x", "y", mode="IDF", min_gram_length=1, max_gram_length=1, max_skip_count=0,
        ngram_counts=[0], ngram_indexes=[0], pool_int64s=[1], weights=[1.0, 2.0],
    )  # fmt: skip
    with pytest.raises(ModelError, match="operators for the host cannot be loaded: zip"):
        kompilo.compile(model([broken], [tensor("x", TensorProto.INT32, [3])], [tensor("y", FLOAT, None)]))


A, B, X = strings("b", "a", "b", "é", "A"), strings("x", "y"), strings("p")
MOVED = [
    ("Compress", [A, np.array([1, 0, 1, 1, 0], bool)], {"axis": 0}),
    ("Where", [np.array([1, 0, 1, 0, 1], bool), A, X], {}),
    ("Expand", [B, np.array([3, 2])], {}),
    ("Tile", [A, np.array([2])], {}),
    ("GatherElements", [A[:4].reshape(2, 2), np.array([[0, 1], [1, -1]])], {"axis": 1}),
    ("GatherND", [A[:4].reshape(2, 2), np.array([[0, 1], [-1, 0]])], {}),
    ("ScatterElements", [A, np.array([0, 3]), B], {}),
    ("ScatterND", [A, np.array([[1], [4]]), B], {}),
    ("Concat", [A, B], {"axis": 0}),
    ("Reshape", [A[:4], np.array([-1, 2])], {}),
    ("Squeeze", [X, np.array([0])], {}),
    ("Unsqueeze", [A, np.array([1])], {}),
    ("Gather", [A, np.array([[0, -1]])], {}),
    ("Transpose", [A[:4].reshape(2, 2)], {}),
    ("Flatten", [A[:4].reshape(2, 2)], {"axis": 0}),
]


@pytest.mark.parametrize(("op", "values", "attributes"), MOVED, ids=[op for op, _, _ in MOVED])
def test_strings_are_moved_as_numbers_are(op, values, attributes):
    kinds = [STRING if v.dtype == object else helper.np_dtype_to_tensor_dtype(v.dtype) for v in values]
    inputs = [tensor("abc"[k], kind, v.shape) for k, (kind, v) in enumerate(zip(kinds, values, strict=True))]
    against_onnxruntime(model([node(op, " ".join("abc"[: len(values)]), "y", **attributes)], inputs, [Y]), *values)
