"""Damaged, foreign and hostile files: one sentence, never a crash, and never a wrong artifact."""

import contextlib
import io
import json
import os
import struct
import warnings
import zipfile
import zlib
from hashlib import sha256

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sample_artifact import sample_artifact

from kompilo.compiler.artifact.artifact import Artifact, read_artifact
from kompilo.compiler.artifact.container import write_members
from kompilo.compiler.errors import ArtifactError


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> bytes:
    file = tmp_path_factory.mktemp("good") / "m.kpo"
    sample_artifact().save(file)
    return file.read_bytes()


def open_bytes(data: bytes) -> Artifact:
    artifact, check = read_artifact(data)
    check()
    return artifact


def same_or_refused(data: bytes) -> None:
    try:
        artifact = open_bytes(data)
        artifact.check()
    except ArtifactError as error:
        sentence = error.message
        if "\n" in sentence or not sentence.endswith("."):
            pytest.fail(f"not one sentence: {sentence!r}")
        return
    wanted = sample_artifact()
    assert (artifact.inputs, artifact.outputs, artifact.provenance) == (
        wanted.inputs,
        wanted.outputs,
        wanted.provenance,
    )
    assert artifact.targets == wanted.targets
    for a, b in zip(artifact.weights, wanted.weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_every_byte_flipped(good):
    """All of the file: headers, padding, manifest, code, weights, directory."""
    for position in range(len(good)):
        damaged = bytearray(good)
        damaged[position] ^= 0xFF
        same_or_refused(bytes(damaged))


def test_every_truncation(good):
    for length in range(len(good)):
        with pytest.raises(ArtifactError):
            open_bytes(good[:length])


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_random_edits(good, data):
    damaged = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(damaged) - 1))
        length = data.draw(st.integers(0, 8))
        damaged[position : position + length] = data.draw(st.binary(max_size=8))
    same_or_refused(bytes(damaged))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes(data):
    with pytest.raises(ArtifactError):
        open_bytes(data)


def test_a_flip_in_the_weights_names_the_member(good):
    position = good.index(np.arange(21, dtype=np.float32).tobytes())
    damaged = bytearray(good)
    damaged[position + 5] ^= 1
    with pytest.raises(ArtifactError, match=r"the member 'weights.bin' is damaged \(its CRC-32 differs\)"):
        open_bytes(bytes(damaged))


def repack(good: bytes, edit=lambda manifest: None, **members: bytes) -> bytes:
    """The artifact with `edit` applied to its manifest, and members replaced; checksums made to fit again."""
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    contents.update({name.replace("__", "/").replace("_dot_", "."): data for name, data in members.items()})
    manifest = json.loads(contents.pop("manifest.json"))
    for name, data in contents.items():
        facts = {"size": len(data), "sha256": sha256(data).hexdigest(), "crc32": zlib.crc32(data)}
        manifest["members"][name] = facts
    edited = edit(manifest)
    text = edited if isinstance(edited, bytes) else json.dumps(manifest).encode()
    file = io.BytesIO()
    write_members(file, [("manifest.json", len(text), [text])] + [(n, len(d), [d]) for n, d in contents.items()])
    return file.getvalue()


def test_repacking_alone_changes_nothing(good):
    same_or_refused(repack(good))
    open_bytes(repack(good))


def put(*path_and_value):
    *path, last, value = path_and_value

    def edit(manifest):
        for key in path:
            manifest = manifest[key]
        manifest[last] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (put("version", 4), "format version 4 is newer than 3"),
        (put("version", 0), "at least 1, found 0"),
        (put("version", True), "at least 1, found True"),
        (put("format", "zip"), "expected the format 'kompilo'"),
        (put("inputs", 3), "manifest.inputs: expected a list, found 3"),
        (put("inputs", 0, "shape", [-1]), "the shape .* is impossible"),
        (put("inputs", 0, "shape", [1.5]), "expected an integer or a string, found 1.5"),
        (put("inputs", 0, "shape", [True]), "expected an integer or a string, found True"),
        (put("inputs", 0, "shape", [2**80]), "impossible"),
        (put("inputs", 0, "shape", [1] * 40), "impossible"),
        (put("inputs", 0, "name", ""), "has no name"),
        (put("inputs", 1, "name", "x"), "distinct input names"),
        (put("inputs", 0, "dtype", "object"), "dtype 'object' is unknown"),
        (put("targets", []), "at least one target"),
        (put("targets", 0, "name", "../etc"), "is not allowed"),
        (put("targets", 0, "library", "code/none"), "member 'code/none' is missing"),
        (put("targets", 0, "weights", [9]), "weight numbers below 4"),
        (put("targets", 0, "weights", [-1]), "weight numbers below 4"),
        (put("targets", 0, "memory", None), "expected an object"),
        (put("weights", 0, "offset", -64), "overlap the weight before"),
        (put("weights", 0, "offset", 1), "do not start at a multiple of 64"),
        (put("weights", 1, "offset", 0), "overlap the weight before"),
        (put("weights", 0, "offset", 2**60), "exceed"),
        (put("weights", 0, "shape", [2**40, 2**40]), "exceed"),
        (put("weights", 0, "dtype", "float128"), "dtype 'float128' is unknown"),
        (put("weights", 0, "shape", "37"), "expected a list"),
        (put("members", {}), "is missing"),
        (put("members", "weights.bin", "size", 2**40), "not the one that manifest.json describes"),
        (put("members", "weights.bin", "sha256", "no"), "impossible size or checksum"),
        (put("members", "code/cpu-wide/lib.so", "crc32", -1), "impossible size or checksum"),
        (put("members", "absent", {"size": 1, "sha256": "0" * 64, "crc32": 0}), "member 'absent' is missing"),
        (lambda m: m.pop("outputs") and None, "the key 'outputs' is missing"),
        (lambda m: b"", "not valid JSON"),
        (lambda m: b"[]", "expected the format"),
        (lambda m: b"\xff\xfe", "not valid JSON"),
        (lambda m: b'{"format": "kompilo", "version": 1, "version": 1}', "a key is repeated"),
        (lambda m: b'{"format": "kompilo", "version": NaN}', "NaN is not a JSON number"),
        (lambda m: b"[" * 100000, "not valid JSON"),
        (lambda m: b"[" * 80 + b"]" * 80, "nested deeper"),
        (lambda m: b"9" * 10000, "not valid JSON|expected the format"),
    ],
)
def test_absurd_manifests(good, edit, message):
    with pytest.raises(ArtifactError, match=message):
        open_bytes(repack(good, edit))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_random_values_in_the_manifest(good, data):
    values = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(),
        st.text(max_size=5),
        st.just([]),
        st.just({}),
    )

    def edit(manifest):
        places = []

        def collect(node):
            for key in list(node) if isinstance(node, dict) else range(len(node)):
                places.append((node, key))
                if isinstance(node[key], dict | list):
                    collect(node[key])

        collect(manifest)
        node, key = data.draw(st.sampled_from(places))
        node[key] = data.draw(values)

    with contextlib.suppress(ArtifactError):  # an edit may be harmless
        open_bytes(repack(good, edit)).check()


def test_a_weights_member_of_another_length(good):
    with pytest.raises(ArtifactError, match=r"exceed the 64 bytes of weights\.bin"):
        open_bytes(repack(good, weights_dot_bin=bytes(64)))


def zip_of(*members: tuple[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", compression) as archive:
        warnings.simplefilter("ignore", UserWarning)  # of a repeated name, which is wanted here
        for name, data in members:
            archive.writestr(name, data)
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it is empty"),
        (b"\x08\x07ONNX", "not a zip file"),
        (zip_of(("readme.txt", b"hello")), "does not start at a multiple|without manifest.json"),
        (zip_of(), "not a zip file|without manifest.json"),
        (zip_of(("a", b"1"), ("a", b"2")), "is there twice|multiple of 64"),
        (zip_of(("manifest.json", bytes(10**6)), compression=zipfile.ZIP_DEFLATED), "compressed or encrypted"),
    ],
    ids=["empty", "not-zip", "other-zip", "empty-zip", "twice", "bomb"],
)
def test_other_files(data, message):
    with pytest.raises(ArtifactError, match=message):
        open_bytes(data)


def test_members_that_overlap(good):
    """The directory sends the weights' reader to another member's header."""
    damaged = bytearray(good)
    directory = good.rindex(b"PK\x01\x02")
    first = good.index(b"PK\x01\x02")
    damaged[directory + 42 : directory + 46] = good[first + 42 : first + 46]
    with pytest.raises(ArtifactError, match="contradicts the directory"):
        open_bytes(bytes(damaged))


def test_a_directory_that_points_beyond_the_file(good):
    damaged = bytearray(good)
    directory = good.rindex(b"PK\x01\x02")
    damaged[directory + 42 : directory + 46] = struct.pack("<I", len(good) + 1000)
    with pytest.raises(ArtifactError, match="outside the file"):
        open_bytes(bytes(damaged))


def test_missing_file_and_directory(tmp_path):
    with pytest.raises(ArtifactError, match="cannot open .*: no such file or directory"):
        Artifact.open(tmp_path / "none.kpo")
    with pytest.raises(ArtifactError, match="cannot open .*: it is a directory"):
        Artifact.open(tmp_path)
    with pytest.raises(ArtifactError, match="cannot open .*: embedded null byte"):
        Artifact.open("nul\0.kpo")


def test_a_named_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ArtifactError, match="not a regular file"):
        Artifact.open(tmp_path / "pipe")


def test_a_file_without_permission(tmp_path, monkeypatch):
    """root may read everything, so the refusal is made up where the tests run as root."""
    path = tmp_path / "m.kpo"
    sample_artifact().save(path)
    path.chmod(0)
    if os.geteuid() == 0:

        def refuse(*args):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ArtifactError, match="cannot open .*: permission denied"):
        Artifact.open(path)


def test_check_compares_sha256(tmp_path):
    """A change that keeps the CRC-32 is seen by `check`."""
    path = tmp_path / "m.kpo"
    sample_artifact().save(path)
    data = bytearray(path.read_bytes())
    start = bytes(data).index(np.arange(21, dtype=np.float32).tobytes())
    data[start : start + 5] = bytes(a ^ b for a, b in zip(data[start : start + 5], _CRC_NEUTRAL, strict=True))
    path.write_bytes(data)
    artifact = Artifact.open(path)
    with pytest.raises(ArtifactError, match=r"weights.bin' is damaged \(its SHA-256 differs\)"):
        artifact.check()


# The generator polynomial of CRC-32 (bit-reflected, lowest power first): adding it anywhere keeps the checksum.
_CRC_NEUTRAL = (((0xEDB88320 << 1) | 1) & 0xFFFFFFFFFF).to_bytes(5, "little")
