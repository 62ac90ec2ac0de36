"""The small languages of the options."""

import numpy as np
import pytest

from kompilo.compiler.cli.arguments import fix_shapes, parse_shape, parse_threads, read_values, split_shape_options
from kompilo.compiler.cli.feeds import make_feeds
from kompilo.compiler.errors import InputError, UsageError
from kompilo.compiler.tensor_spec import TensorSpec

SPECS = [TensorSpec("x", ("N", 3), "float32"), TensorSpec("ids", ("N", "S"), "int64")]


@pytest.mark.parametrize(
    ("text", "name", "shape"),
    [
        ("x:1x3x224x224", "x", (1, 3, 224, 224)),
        ("x:Nx3", "x", ("N", 3)),
        ("input:0:2x5", "input:0", (2, 5)),
        ("x:batch,max_len", "x", ("batch", "max_len")),
        ("x:", "x", ()),
        ("x:7", "x", (7,)),
    ],
)
def test_shapes(text, name, shape):
    assert parse_shape(text) == (name, shape)


@pytest.mark.parametrize("text", ["1x3", ":1x3", "x:1x-3", "x:1xx3", "x:1.5"])
def test_bad_shapes(text):
    with pytest.raises(UsageError):
        parse_shape(text)


def test_threads():
    assert parse_threads("1") == [1]
    assert parse_threads("1,2") == [1, 2]
    for text in ("", "0", "-1", "1,", "many"):
        with pytest.raises(UsageError):
            parse_threads(text)


def test_a_size_holds_for_every_input_that_uses_its_name():
    shapes, sizes = split_shape_options(["x:4x3", "S=9"])
    assert [s.shape for s in fix_shapes(SPECS, shapes, sizes)] == [(4, 3), (4, 9)]


def test_names_with_an_equals_sign():
    specs = [TensorSpec("a=b", ("N", 2), "float32"), TensorSpec("a", ("N",), "float32")]
    shapes, sizes = split_shape_options(["a=b:3x2"])
    assert [s.shape for s in fix_shapes(specs, shapes, sizes)] == [(3, 2), (3,)]
    assert read_values(["a=b=ones", "a=zeros"], specs) == {"a=b": "ones", "a": "zeros"}
    assert split_shape_options(["n=m=4"]) == ({}, {"n=m": 4})


def test_dimensions_may_be_spelled_as_the_model_does():
    specs = [TensorSpec("x", ("n_1", "批"), "float32")]
    assert [s.shape for s in fix_shapes(specs, *split_shape_options(["n+1=4", "批=2"]))] == [(4, 2)]


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("y:1x3", "no input 'y': expected one of x, ids"),
        ("M=3", "no dimension 'M'"),
        ("x:1x3x3", "has 2 dimensions, --shape gives 3"),
        ("x:1x4", "fixed dimension 3, --shape gives 4"),
    ],
)
def test_shapes_that_do_not_fit(option, says):
    with pytest.raises(InputError, match=says):
        fix_shapes(SPECS, *split_shape_options([option]))


def test_values_from_files_and_literals(tmp_path):
    x = np.ones((2, 3), np.float32)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "one.npz", anything=x)
    np.savez(tmp_path / "both.npz", x=x, ids=np.zeros((2, 5), np.int64))
    for text in (f"x={tmp_path}/x.npy", f"x={tmp_path}/one.npz", f"x={tmp_path}/both.npz"):
        np.testing.assert_array_equal(read_values([text], SPECS)["x"], x)
    assert set(read_values([f"{tmp_path}/both.npz"], SPECS)) == {"x", "ids"}
    assert read_values(["ids=[[1,2],[3,4]]"], SPECS)["ids"].tolist() == [[1, 2], [3, 4]]
    assert read_values(["x=random"], SPECS) == {"x": "random"}


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("x", UsageError, "expected --input NAME=VALUE"),
        ("y=1", InputError, "no input 'y'"),
        ("x=nothere.npy", InputError, "no file 'nothere.npy'"),
        ("x=broken.npy", InputError, "no readable .npy file"),
        ("x=broken.npz", InputError, "no readable .npz file"),
        ("x=empty.npy", InputError, "no readable .npy file"),
        ("x=archive.npy", InputError, "no readable .npy file"),
        ("x=hello", InputError, "expected a value of x: float32"),
    ],
)
def test_values_that_cannot_be_read(tmp_path, monkeypatch, text, error, says):
    monkeypatch.chdir(tmp_path)
    for name in ("broken.npy", "broken.npz"):
        (tmp_path / name).write_bytes(b"\x93NUMPY not really")
    (tmp_path / "empty.npy").write_bytes(b"")
    with open("archive.npy", "wb") as file:
        np.savez(file, x=np.zeros(3))
    with pytest.raises(error, match=says):
        read_values([text], SPECS)


def test_feeds_take_sizes_from_given_arrays(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((4, 3), np.float32))
    feeds = make_feeds(SPECS, [f"x={tmp_path}/x.npy"], ["S=7"])
    assert feeds.arrays["ids"].shape == (4, 7)
    assert feeds.random
    assert feeds.remark is None


def test_feeds_fill_and_assume():
    feeds = make_feeds(SPECS, ["x=zeros", "ids=5"], ["N=2", "S=3"])
    assert not feeds.arrays["x"].any()
    assert (feeds.arrays["ids"] == 5).all()
    assert feeds.arrays["ids"].shape == (2, 3)
    assumed = make_feeds(SPECS, assume=True)
    assert assumed.assumed == {"N": 1, "S": 64}
    assert "N=1, S=64" in assumed.remark


def test_feeds_without_a_size_ask_for_it():
    with pytest.raises(InputError, match="dimension 'N' of input x.*--shape N=SIZE"):
        make_feeds(SPECS)
