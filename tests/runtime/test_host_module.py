"""Artifacts with operators on the host: the file, the loader, calls, and what is refused in a sentence."""

import builtins
import io
import json
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise

import numpy as np
import onnxruntime
import pytest
from host_models import BOOL, FLOAT, STRING, UINT8, WEIGHTS, model, node, optional, sentences, sequence, tensor

import kompilo
from kompilo.compiler.artifact.artifact import Artifact
from kompilo.compiler.runtime import host_operators
from kompilo.compiler.runtime.host_values import accept, conform
from kompilo.compiler.tensor_spec import TensorSpec
from kompilo.errors import ArtifactError, InputError, KompiloError, UsageError


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    return kompilo.compile(sentences(), records=False)


@pytest.fixture(scope="module")
def path(artifact, tmp_path_factory):
    file = tmp_path_factory.mktemp("host") / "sentences.kpo"
    artifact.save(file)
    return file


@pytest.fixture
def loaded(path):
    return kompilo.load(path, threads=1)


def expected(words):
    """Probabilities and label of `sentences`, by hand."""
    kept = [word.lower() for word in words if word.lower() != "the"] or [""]
    pairs = list(pairwise(kept))
    counts = [kept.count(letter) for letter in "abc"] + [pairs.count(("a", "b")), pairs.count(("b", "c"))]
    scores = np.array(counts, np.float32) @ WEIGHTS
    powers = np.exp(scores - scores.max())
    return powers / powers.sum(), "xyz"[scores.argmax()]


def check(module, words):
    prob, label = module(words)
    wanted, name = expected(words)
    np.testing.assert_allclose(prob, wanted, rtol=1e-5)
    assert prob.dtype == np.float32
    assert (label.shape, label.item()) == ((), name)


def test_a_file_holds_segments_and_its_version_says_so(artifact, path):
    opened = Artifact.open(path)
    assert opened.format_version == 2
    assert opened.segments == artifact.segments
    assert [target.segment for target in opened.targets] == [1]
    opened.check()
    with zipfile.ZipFile(path) as file:
        manifest = json.loads(file.read("manifest.json"))
        models = [name for name in file.namelist() if name.startswith("host/")]
    assert models == ["host/segment0.onnx", "host/segment2.onnx"]
    assert [entry["model"] for entry in manifest["segments"]] == [models[0], None, models[1]]
    assert manifest["targets"][0]["library"].endswith("/segment1/lib.so")
    reason = {"operator": "TfIdfVectorizer", "node": "COUNTS", "reason": "no target looks up n-grams"}
    assert reason in manifest["segments"][0]["operators"]


def test_runs(loaded):
    for words in (["The", "a", "B", "c"], ["b"], ["the"], np.array(["c", "b", "b"]), np.array(["B", "C"], object)):
        check(loaded, words)
    results = loaded.run({"words": ["a"]})
    assert list(results) == ["prob", "label"]
    assert loaded.inputs[0] == TensorSpec("words", ("n",), "string")
    assert repr(loaded).startswith("<Module (words: string[n]) -> (prob: float32[3], label: string[]) on cpu-")


def test_calls_at_the_same_time(loaded):
    rng = np.random.default_rng(0)
    texts = [list(rng.choice(list("abc"), size)) for size in rng.integers(1, 9, 60)]
    with ThreadPoolExecutor(4) as pool:
        for _ in pool.map(lambda words: check(loaded, [str(w) for w in words]), texts):
            pass


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([1, 2], "input 'words': expected strings, found int"),
        ([b"a"], "input 'words': expected strings, found bytes"),
        ([["a"], ["b"]], r"input 'words': expected words: string\[n\], found the shape \[2, 1\]"),
        ([["a"], ["b", "c"]], "input 'words': expected strings, found l"),
        ("a", r"expected words: string\[n\], found the shape \[\]"),
        (None, "expected strings, found NoneType"),
    ],
)
def test_inputs_that_do_not_fit(loaded, words, message):
    with pytest.raises(InputError, match=message):
        loaded(words)
    check(loaded, ["a"])


def test_results_share_no_memory_with_inputs():
    """Inputs that are outputs too, and lists that the host's operators hand on."""
    nodes = [node("Identity", "q", "same"), node("Identity", "s", "text")]
    proto = model(
        nodes,
        [sequence("q", FLOAT), tensor("s", STRING, ["n"])],
        [sequence("same", FLOAT), tensor("text", STRING, None)],
    )
    items, text = [np.ones(2, np.float32)], np.array(["a"], object)
    same, words = kompilo.load(kompilo.compile(proto, records=False))(items, text)
    assert same is not items
    assert not np.shares_memory(same[0], items[0])
    words[0] = "b"
    assert text[0] == "a"


def test_the_sizes_of_compiled_segments_are_checked():
    """Sizes that only the host knows, and names that two inputs share."""
    nodes = [node("Equal", "s t", "same"), node("Cast", "same", "number", to=FLOAT), node("Add", "number x", "y")]
    inputs = [tensor("s", STRING, ["n"]), tensor("t", STRING, ["n"]), tensor("x", FLOAT, ["n"])]
    module = kompilo.load(kompilo.compile(model(nodes, inputs, [tensor("y", FLOAT, None)]), records=False))
    np.testing.assert_array_equal(module(["a", "b"], ["a", "c"], np.array([1, 2], np.float32)), [2, 2])
    with pytest.raises(InputError, match=r"input 't': the dimension 'n' \(axis 0\) is 1, but 2 in 's'"):
        module(["a", "b"], ["a"], np.ones(2, np.float32))
    with pytest.raises(InputError, match="^between segments: input .* must be at least 1, found 0"):
        module([], [], np.ones(0, np.float32))


def test_devices(path, loaded):
    with pytest.raises(UsageError, match="expected auto or one of the artifact's targets"):
        kompilo.load(path, device="cuda")
    with pytest.raises(UsageError, match="enqueue: expected a model that is compiled as a whole"):
        loaded.enqueue(["a"])
    host_only = kompilo.compile(
        model([node("StringConcat", "s s", "y")], [S], [tensor("y", STRING, None)]), records=False
    )
    assert host_only.targets == ()
    with pytest.raises(UsageError, match="device 'cuda': expected auto or cpu, for all operators of the model run on"):
        kompilo.load(host_only, device="cuda")
    module = kompilo.load(host_only, device="cpu")
    assert module.runs_on == "host"
    assert module(["a", "é"]).tolist() == ["aa", "éé"]


S = tensor("s", STRING, ["n"])


def test_two_targets_in_one_file(tmp_path):
    artifact = kompilo.compile(sentences(), target=["cpu:avx2", "cpu:skylake-avx512"], records=False)
    artifact.save(tmp_path / "two.kpo")
    opened = Artifact.open(tmp_path / "two.kpo")
    assert [(t.name, t.segment) for t in opened.targets] == [("cpu:avx2", 1), ("cpu:skylake-avx512", 1)]
    assert len(opened.weights) <= 2


def test_without_the_onnx_package(path, monkeypatch):
    """One sentence, and only for artifacts that need it."""
    real = builtins.__import__

    def without_onnx(name, *args, **kwargs):
        if name.split(".")[0] == "onnx":
            raise ImportError("No module named 'onnx'")
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, host_operators.__name__)
    monkeypatch.setattr(builtins, "__import__", without_onnx)
    with pytest.raises(
        KompiloError, match=r"StringNormalizer node 'CLEAN' for one.* cannot be imported \(No module"
    ) as error:
        kompilo.load(path)
    assert error.value.hint == "pip install onnx"


def test_ctrl_c_passes_through(loaded, monkeypatch):
    """An interrupt ends the call, and the module goes on to serve."""

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(host_operators.StringNormalizer, "_run", interrupt)
        with pytest.raises(KeyboardInterrupt):
            loaded(["a"])
    check(loaded, ["a", "b"])


def test_what_the_evaluator_gives_is_not_believed(loaded, monkeypatch):
    """Results of another type than the model's are an error, not an answer."""
    with monkeypatch.context() as patch:
        patch.setattr(host_operators.TfIdfVectorizer, "_run", lambda *args, **kwargs: (np.zeros(5, np.float64),))
        with pytest.raises(KompiloError, match="cannot be trusted .* expected float32 for 'counts', found float64"):
            loaded(["a"])
        patch.setattr(host_operators.TfIdfVectorizer, "_run", lambda *args, **kwargs: (np.zeros((1, 5), np.float32),))
        with pytest.raises(KompiloError, match="expected 1 dimensions for 'counts', found 2"):
            loaded(["a"])
    check(loaded, ["a", "b"])


@pytest.mark.parametrize(
    ("dtype", "value", "message"),
    [
        ("sequence(float32)", np.ones(2), "expected a list of arrays"),
        ("sequence(float32)", [np.ones(2)], r"expected float32\[m\], found float64"),
        ("optional(sequence(int64))", [1, None], "input 'v'"),
        ("optional(string)", ["a", 2], "expected strings, found int"),
    ],
)
def test_values_that_do_not_fit(dtype, value, message):
    with pytest.raises(InputError, match=message):
        accept(value, TensorSpec("v", ("m",), dtype))


def test_values_that_fit():
    assert accept(None, TensorSpec("v", ("m",), "optional(sequence(int64))")) is None
    (item,) = accept([[1, 2]], TensorSpec("v", ("m",), "optional(sequence(int64))"))
    assert (item.dtype, item.tolist()) == (np.int64, [1, 2])
    assert conform(np.array(["a", "bc"]), TensorSpec("v", ("m",), "string")).tolist() == ["a", "bc"]
    with pytest.raises(ValueError, match="expected a tensor for 'v', found NoneType"):
        conform(None, TensorSpec("v", ("m",), "float32"))


def save_edited(artifact, path, **changes):
    replace(artifact, **changes).save(path)


def test_segments_that_do_not_fit_together_are_refused(artifact, tmp_path):
    first, second, third = artifact.segments
    wrong = [
        ((second, first, third), r"segment 0: nothing before it gives \['counts'\]"),
        ((first, second, second, third), r"segment 2: it gives \['(best|prob)"),
        ((first, second), r"no segment gives the outputs \['label'\]"),
        ((first, third, second), "nothing before it gives|expected code for each compiled segment"),
        ((replace(first, outputs=(TensorSpec("counts", (5,), "text"),)), second, third), "the dtype 'text' is unknown"),
        ((first, replace(second, inputs=(TensorSpec("words", ("n",), "string"),)), third), "dtype 'string' is unknown"),
    ]
    for number, (segments, message) in enumerate(wrong):
        with pytest.raises(ArtifactError, match=message):
            save_edited(artifact, tmp_path / f"{number}.kpo", segments=segments)
    with pytest.raises(ArtifactError, match="expected code for each compiled segment"):
        save_edited(artifact, tmp_path / "none.kpo", targets=())
    with pytest.raises(ArtifactError, match="expected at least one target|dtype 'string' is unknown"):
        save_edited(artifact, tmp_path / "whole.kpo", segments=())


def test_a_damaged_model_of_the_host(path, tmp_path):
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as file:
        place = content.index(file.read("host/segment0.onnx"))
    content[place + 40] ^= 1
    (tmp_path / "damaged.kpo").write_bytes(content)
    with pytest.raises(ArtifactError, match="member 'host/segment0.onnx' is damaged"):
        kompilo.load(tmp_path / "damaged.kpo")


def test_optional_inputs_of_compiled_operators():
    """What is in an optional is compiled for, once it is taken out."""
    nodes = [node("OptionalGetElement", "o", "x"), node("Neg", "x", "y"), node("OptionalHasElement", "o", "there")]
    proto = model(nodes, [optional("o", FLOAT, ["n", 2])], [tensor("y", FLOAT, None), tensor("there", BOOL, None)])
    artifact = kompilo.compile(proto, records=False)
    assert [segment.on_host for segment in artifact.segments] == [True, False]
    y, there = kompilo.load(artifact)(np.ones((3, 2), np.float32))
    np.testing.assert_array_equal(y, -np.ones((3, 2)))
    assert there


def test_pictures_in_numbers_out():
    """A compiled network behind a decoder: the picture's sizes are open, its three channels follow from the weights."""
    picture = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((4, 3, 3, 3)).astype(np.float32)
    network = [
        node("Cast", "pixels", "numbers", to=FLOAT),
        node("Transpose", "numbers", "planes", perm=[2, 0, 1]),
        node("Unsqueeze", "planes zero", "batch"),
        node("Conv", "batch w", "found"),
        node("ReduceMax", "found", "y"),
    ]
    outputs, stored = [tensor("y", FLOAT, None)], {"zero": np.array([0]), "w": weights}
    decode = node("ImageDecoder", "file", "pixels")
    artifact = kompilo.compile(
        model([decode, *network], [tensor("file", UINT8, ["n"])], outputs, **stored), records=False
    )
    assert [segment.on_host for segment in artifact.segments] == [True, False]
    alone = model(network, [tensor("pixels", UINT8, ["h", "w_", "c"])], outputs, **stored)
    reference = onnxruntime.InferenceSession(alone.SerializeToString(), providers=["CPUExecutionProvider"])
    module = kompilo.load(artifact)
    for height, width in ((9, 7), (5, 12)):
        pixels = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
        file = io.BytesIO()
        picture.fromarray(pixels).save(file, "PNG")
        (wanted,) = reference.run(None, {"pixels": pixels})
        np.testing.assert_allclose(module(np.frombuffer(file.getvalue(), np.uint8)), wanted, rtol=1e-4)
