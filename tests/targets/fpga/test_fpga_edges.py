"""Models at the edges of what designs are made for, and damaged caches of their simulation."""

import shutil

import numpy as np
import onnx.parser
import pytest

import kompilo
from kompilo.compiler.errors import UsageError
from kompilo.compiler.projects import check_project
from kompilo.compiler.schedule.target import find_target
from kompilo.targets.fpga.sim import device

from fpga_cases import need_headers


def agree(signature: str, body: str, *inputs: np.ndarray) -> None:
    """The simulated device gives what this machine's CPU gives, infinities and NaN included."""
    need_headers()
    text = f'<ir_version: 8, opset_import: ["" : 18]> g {signature} {{ {body} }}'
    made = kompilo.compile(onnx.parser.parse_model(text), target=["cpu", "fpga:u280"])
    cpu, fpga = (
        list(module.run(dict(zip((s.name for s in made.inputs), inputs, strict=True))).values())
        for module in (kompilo.load(made, device=name) for name in ("cpu", "fpga:sim"))
    )
    assert len(cpu) == len(fpga)
    for expected, found in zip(cpu, fpga, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_constant_may_be_no_number():
    agree("(float[5] x) => (float[5] y)", "y = Log(x)", np.array([1, 0.5, -1, 0, np.nan], np.float32))


@pytest.mark.parametrize(
    ("outputs", "body"),
    [
        ("float[2, 3] y", "y = Relu(x)"),
        ("float[2, 3] y, float[2] c", "y = Relu(x) c = Constant<value_floats = [1.5, -2.0]>()"),
        ("float[2, 3] y, float[2, 3] z", "y = Relu(x) z = Identity(y)"),
        ("float[2, 3] y, float[2, 3] z", "y = MatMul(x, w) z = Identity(x)"),
        ("float[2, 3] y, float[2, 3] z", "y = Relu(x) z = Sqrt(y)"),
        ("float[2, 3] y", "y = Identity(x)"),
    ],
)
def test_ports_that_no_operator_has_or_that_are_the_same(outputs, body):
    rng = np.random.default_rng(3)
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 3), (3, 3)))
    agree(f"(float[2, 3] x, float[3, 3] w) => ({outputs})", body, x, w)


def test_designs_of_one_source_have_weights_of_their_own():
    """The same model with other weights, both loaded, and called in turn."""
    need_headers()
    x, modules = np.arange(6, dtype=np.float32).reshape(2, 3), []
    for factor in (1.0, 2.0):
        text = (
            '<ir_version: 8, opset_import: ["" : 18]> g (float[2, 3] x) => (float[2, 3] y) '
            f"<float[3] w = {{{factor}, {2 * factor}, {3 * factor}}}> {{ y = Mul(x, w) }}"
        )
        modules.append(kompilo.load(kompilo.compile(onnx.parser.parse_model(text), target="fpga:u280")))
    for factor, module in ((1.0, modules[0]), (2.0, modules[1]), (1.0, modules[0])):
        np.testing.assert_allclose(module(x), x * np.array([1, 2, 3]) * factor, rtol=1e-6)


@pytest.mark.parametrize("damage", [b"", b"no library", None])
def test_a_damaged_library_in_the_cache_is_made_anew(damage, tmp_path, monkeypatch):
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    monkeypatch.setenv("KOMPILO_CACHE", str(tmp_path))
    monkeypatch.setattr(device, "header_folder", lambda: tmp_path)
    source = 'extern "C" int seven() { return 7; }\n'
    path = device.compiled(source)
    right, made = path.read_bytes(), path.stat().st_ino
    assert device.compiled(source).stat().st_ino == made
    path.write_bytes(bytes(len(right)) if damage is None else damage)
    assert device.compiled(source) == path
    assert path.read_bytes()[:4] == right[:4] == b"\x7fELF"
    assert len(path.read_bytes()) == len(right)


def test_a_project_takes_no_folder_of_other_files(tmp_path):
    targets = {"fpga:u280": find_target("fpga:u280")}
    check_project(tmp_path, targets)
    (tmp_path / "report.json").touch()
    with pytest.raises(UsageError, match="expected a new folder or an earlier project, found files in"):
        check_project(tmp_path, targets)
    (tmp_path / "run_hls.tcl").touch()
    check_project(tmp_path, targets)
    with pytest.raises(UsageError, match="found an empty name"):
        check_project("", targets)
