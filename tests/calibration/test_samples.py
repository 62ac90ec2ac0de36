"""Calibration data: what is taken, and what is refused in one sentence."""

import zipfile

import numpy as np
import pytest

from kompilo.compiler.calibration.samples import read_samples
from kompilo.compiler.errors import InputError
from kompilo.compiler.tensor_spec import TensorSpec

SPECS = (TensorSpec("x", ("n", 3), "float32"), TensorSpec("ids", (4,), "int64"))


def good(**changes):
    return {"x": np.ones((5, 2, 3), "f4"), "ids": np.zeros((5, 4), "i8")} | changes


def test_samples_are_what_runs_take(tmp_path):
    np.savez(tmp_path / "c.npz", **good(x=np.arange(30, dtype="f4").reshape(5, 2, 3)))
    samples = read_samples(tmp_path / "c.npz", SPECS)
    assert len(samples) == 5
    assert samples[1]["x"].tolist() == [[6, 7, 8], [9, 10, 11]]
    assert samples[4]["ids"].shape == (4,)


BAD = {
    "missing": ({"x": np.ones((5, 2, 3), "f4")}, "expected an array for input ids: int64[4], found x."),
    "unknown": (good(y=np.ones(3)), "the model has no input 'y': expected x, ids."),
    "rank": (good(x=np.ones((5, 3), "f4")), r"expected shape (samples, n, 3) for input 'x', found (5, 3)."),
    "size": (good(ids=np.zeros((5, 3), "i8")), r"expected shape (samples, 4) for input 'ids', found (5, 3)."),
    "dtype": (good(x=np.ones((5, 2, 3))), "expected float32 for input 'x', found float64."),
    "empty": (good(x=np.ones((0, 2, 3), "f4")), "expected samples of input 'x', found an empty array."),
    "nan": (good(x=np.full((5, 2, 3), np.nan, "f4")), "expected finite numbers for input 'x', found NaN or infinity."),
    "counts": (good(x=np.ones((6, 2, 3), "f4")), "expected equally many samples of each input, found 6 of 'x', 5 of"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_samples_are_told_in_a_sentence(case):
    arrays, message = BAD[case]
    with pytest.raises(InputError) as caught:
        read_samples(arrays, SPECS)
    assert message in caught.value.message


def test_files_that_are_none(tmp_path):
    np.save(tmp_path / "one.npy", np.ones(3))
    (tmp_path / "text.npz").write_text("no zip")
    expected = {"nowhere.npz": "there is no file", "one.npy": "found one array", "text.npz": "is none"}
    for name, message in expected.items():
        with pytest.raises(InputError, match=message):
            read_samples(tmp_path / name, SPECS)


def test_arrays_that_claim_more_than_there_is(tmp_path):
    """A header may say anything: a petabyte, which nothing can hold."""
    header = {"descr": "<f4", "fortran_order": False, "shape": (1 << 50, 3)}
    with zipfile.ZipFile(tmp_path / "vast.npz", "w") as file, file.open("x.npy", "w") as member:
        np.lib.format.write_array_header_1_0(member, header)
    with pytest.raises(InputError, match=r"expected arrays that fit into memory, '.*vast.npz' has larger ones"):
        read_samples(tmp_path / "vast.npz", SPECS)
