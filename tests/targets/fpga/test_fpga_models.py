"""Whole models on FPGAs: a graph of many operators, simulated in C and in RTL, as a project, and what is refused."""

import json
import shutil
import subprocess

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import kompilo
from kompilo.compiler.cli.main import run_command
from kompilo.compiler.driver import _selector
from kompilo.compiler.errors import KompiloError
from kompilo.compiler.frontend.importer import import_model
from kompilo.compiler.passes.lift_weights import lift_weights
from kompilo.compiler.passes.pipeline import run_phases
from kompilo.compiler.schedule.target import find_target
from kompilo.compiler.tune.library import RecordLibrary
from kompilo.targets.fpga.design.build import design_of
from kompilo.targets.fpga.design.read import read_model
from kompilo.targets.fpga.project.write import write_project
from kompilo.targets.fpga.sim.case import Case
from kompilo.targets.fpga.sim.csim import CSimulator
from kompilo.targets.fpga.sim.headers import header_folder
from kompilo.targets.fpga.sim.rtl import simulate_rtl

from fpga_cases import need, need_headers

RNG = np.random.default_rng(5)
F32, I64 = TensorProto.FLOAT, TensorProto.INT64


def model(nodes, inputs, outputs, **weights) -> onnx.ModelProto:
    """A model of `nodes`, (operator, inputs, output, attributes); inputs and outputs are (name, type, shape)."""
    made = [helper.make_node(op, ins.split(), [out], **attrs) for op, ins, out, attrs in nodes]
    tensors = [numpy_helper.from_array(np.asarray(v), n) for n, v in weights.items()]
    infos = [[helper.make_tensor_value_info(*spec) for spec in specs] for specs in (inputs, outputs)]
    graph = helper.make_graph(made, "g", *infos, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def normal(*shape: int) -> np.ndarray:
    rng = np.random.default_rng(shape)
    return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def everything() -> onnx.ModelProto:
    """Convolutions with padding, strides and groups, pooling, concatenation, a look-up by data, LayerNorm, softmax, on
    odd sizes."""
    nodes = [
        ("Conv", "x w1 b1", "c1", {"pads": [1, 1, 1, 1]}),
        ("Relu", "c1", "r1", {}),
        ("Conv", "r1 w2", "c2", {"group": 8, "strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ("MaxPool", "r1", "p1", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ("Concat", "c2 p1", "cat", {"axis": 1}),
        ("Sigmoid", "cat", "map", {}),
        ("GlobalAveragePool", "cat", "mean", {}),
        ("Reshape", "mean flat", "row", {}),
        ("Gather", "table ids", "rows", {"axis": 0}),
        ("Add", "rows row", "sum", {}),
        ("ReduceMean", "sum", "mu", {"axes": [1]}),
        ("Sub", "sum mu", "centred", {}),
        ("Mul", "centred centred", "squares", {}),
        ("ReduceMean", "squares", "variance", {"axes": [1]}),
        ("Add", "variance eps", "positive", {}),
        ("Sqrt", "positive", "deviation", {}),
        ("Div", "centred deviation", "normed", {}),
        ("Erf", "normed", "erf", {}),
        ("MatMul", "erf w3", "scores", {}),
        ("Softmax", "scores", "y", {"axis": 1}),
        ("Cast", "ids", "number", {"to": F32}),
        ("Sub", "number big", "z", {}),
    ]
    inputs = [("x", F32, [1, 3, 9, 7]), ("ids", I64, [5])]
    outputs = [("map", F32, [1, 16, 5, 4]), ("y", F32, [5, 6]), ("z", F32, [5])]
    return model(
        nodes, inputs, outputs, big=np.float32(6), w1=normal(8, 3, 3, 3), b1=normal(8), w2=normal(8, 1, 3, 3),
        table=normal(11, 16), w3=normal(16, 6), flat=np.array([1, 16]), eps=np.float32(1e-3),
    )  # fmt: skip


@pytest.fixture(scope="module")
def feeds():
    return {"x": RNG.standard_normal((1, 3, 9, 7)).astype(np.float32), "ids": np.array([3, 0, 10, 7, 7])}


@pytest.fixture(scope="module")
def artifact():
    return kompilo.compile(everything(), target=["cpu", "fpga:u280"])


def read(net: onnx.ModelProto, part: str):
    """A model as the operators of a design."""
    target = find_target(f"fpga:{part}")
    selector = _selector(target, RecordLibrary.of(False), "fp32")
    mod, weights = lift_weights(run_phases(import_model(net, None).mod, target, selector=selector))
    return read_model(mod, weights)


def designed(net: onnx.ModelProto, part: str):
    return design_of(read(net, part), find_target(f"fpga:{part}").spec)


@pytest.fixture(scope="module")
def design():
    return designed(everything(), "zcu104")


def close(found: np.ndarray, expected: np.ndarray) -> bool:
    return found.shape == expected.shape and np.abs(found - expected).max() <= 1e-4 * max(1e-3, np.ptp(expected))


def test_the_simulated_device_agrees_with_the_cpu(artifact, feeds, tmp_path):
    need_headers()
    artifact.save(tmp_path / "m.kpo")
    expected = kompilo.load(tmp_path / "m.kpo", device="cpu").run(feeds)
    module = kompilo.load(tmp_path / "m.kpo", device="fpga:sim")
    assert module.target.name == "fpga:u280"
    assert 0 < module.predicted_seconds < 1e-3
    for ids in (feeds["ids"], np.array([1, 2, 3, 4, 5])):
        expected = kompilo.load(tmp_path / "m.kpo", device="cpu").run({**feeds, "ids": ids})
        found = module.run({**feeds, "ids": ids})
        assert all(close(found[name], expected[name]) for name in expected)
    with pytest.raises(KompiloError, match="expected float32"):
        module.run({**feeds, "x": feeds["x"].astype(np.float64)})


def test_without_a_compiler_the_loader_says_so(artifact, monkeypatch, tmp_path):
    need_headers()
    monkeypatch.setenv("KOMPILO_CACHE", str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(KompiloError, match=r"^fpga: g\+\+ is not installed\."):
        kompilo.load(artifact, device="fpga:sim")


def case_of(design, feeds) -> Case:
    given = {name: feeds[n].reshape(-1) for name, n in zip(design.inputs, ("x", "ids"), strict=False)}
    return Case(design.simulated, {**dict(design.weights), **given})


def test_rtl_of_a_whole_model_gives_the_same_bits_in_the_predicted_cycles(feeds, tmp_path):
    need("verilator")
    need_headers()
    nodes = [
        ("Conv", "x w", "c", {"pads": [1, 1, 0, 0]}),
        ("MaxPool", "c", "p", {"kernel_shape": [3, 3], "strides": [2, 2]}),
        ("Transpose", "p", "t", {"perm": [0, 2, 1, 3]}),
        ("Reshape", "t flat", "row", {}),
        ("MatMul", "row v", "scores", {}),
        ("Sub", "scores row", "y", {}),
    ]
    inputs, outputs = [("x", F32, [1, 3, 9, 7])], [("y", F32, [2, 12])]
    net = model(nodes, inputs, outputs, w=normal(4, 3, 3, 3), v=normal(12, 12), flat=np.array([2, 12]))
    design = designed(net, "zcu104")
    assert max(s.lanes for s in design.stages) >= 4
    case = case_of(design, feeds)
    expected = CSimulator([design.simulated], tmp_path).run([case]).outcomes[0].outputs
    outcome = simulate_rtl([Case(design.kernel, case.inputs, expected)]).outcomes[0]
    assert outcome.mismatches == 0
    assert outcome.cycles == design.cycles == sum(s.cycles for s in design.stages)


def test_operators_are_unfolded_within_the_part(design):
    budget = {r: design.spec.budget(r) for r in ("dsp", "bram18", "uram", "lut")}
    assert all(n <= budget[r] for r, n in design.resources)
    lanes = {s.source: s.lanes for s in design.stages}
    assert max(lanes.values()) >= 8
    convolution = design.stages[[s.macs for s in design.stages].index(max(s.macs for s in design.stages))]
    assert convolution.ii == 1
    assert convolution.interleaved >= 5


@pytest.mark.parametrize("lanes", [1, 4])
def test_lanes_do_not_change_what_is_computed(lanes, feeds, tmp_path, monkeypatch, design):
    """Banks and multiplexers: the kernel with them against the same one without, each in C."""
    need_headers()
    monkeypatch.setattr("kompilo.targets.fpga.design.fold.MAX_LANES", lanes)
    other = designed(everything(), "u280")
    assert max(s.lanes for s in other.stages) == lanes
    given = case_of(other, feeds)
    cases = [Case(k, given.inputs) for k in (other.kernel, other.simulated)]
    banked, flat = CSimulator([c.kernel for c in cases], tmp_path, "-O0").run(cases).outcomes
    assert all(np.array_equal(banked.outputs[name], flat.outputs[name]) for name in other.outputs)


def test_a_project_checks_itself(design, feeds, tmp_path):
    need_headers()
    expected = kompilo.load(kompilo.compile(everything())).run(feeds)
    (tmp_path / "data").mkdir()
    for old in ("x99.bin", "notes.txt"):
        (tmp_path / "data" / old).write_text("of an earlier project")
    files = write_project(tmp_path, design, [feeds["x"], feeds["ids"]], list(expected.values()))
    assert {f.name for f in (tmp_path / "data").iterdir()} == {"notes.txt"} | {
        f.removeprefix("data/") for f in files if f.startswith("data/")
    }
    assert {"Makefile", "connectivity.cfg", "host.cpp", "run_hls.tcl", "verilog/model.v", "README.md"} <= set(files)
    facts = json.loads((tmp_path / "report.json").read_text())
    assert facts["latency_cycles"] == design.cycles
    assert facts["bottleneck"]["cycles"] == max(s["cycles"] for s in facts["stages"])
    assert "not_checked" in facts
    assert "<h1>" in (tmp_path / "report.html").read_text()
    assert "#pragma HLS INTERFACE m_axi" in (tmp_path / "kernels.cpp").read_text()
    subprocess.run(["make", "-s", "testbench", f"AP_TYPES={header_folder()}"], cwd=tmp_path, check=True, timeout=300)
    golden = tmp_path / "data" / f"{design.outputs[0]}.golden.bin"
    right = np.fromfile(golden, np.float32)
    for wrong, status in ((0, 0), (1, 1), (255, 1), (256, 1)):
        planted = right.copy()
        planted[:wrong] += 1
        planted.tofile(golden)
        assert subprocess.run([tmp_path / "testbench", "data"], cwd=tmp_path, check=False).returncode == status
    right[0] = np.nan
    right.tofile(golden)
    assert subprocess.run([tmp_path / "testbench", "data"], cwd=tmp_path, check=False).returncode == 1
    golden.unlink()
    assert subprocess.run([tmp_path / "testbench", "data"], cwd=tmp_path, check=False).returncode == 2


def test_int8_is_the_cpus_bit_for_bit():
    need_headers()
    nodes = [
        ("Conv", "x w1 b1", "c1", {"pads": [1, 1, 1, 1]}),
        ("Relu", "c1", "r1", {}),
        ("Conv", "r1 w2", "c2", {"strides": [2, 2]}),
        ("MaxPool", "c2", "y", {"kernel_shape": [2, 2]}),
    ]
    weights = {"w1": normal(8, 3, 3, 3), "b1": normal(8), "w2": normal(4, 8, 3, 3)}
    net = model(nodes, [("x", F32, [1, 3, 9, 9])], [("y", F32, [1, 4, 3, 3])], **weights)
    samples = {"x": RNG.standard_normal((6, 1, 3, 9, 9)).astype(np.float32)}
    made = kompilo.compile(net, target=["cpu", "fpga:u50"], precision="int8", calibration=samples)
    cpu, fpga = (kompilo.load(made, device=device) for device in ("cpu", "fpga:sim"))
    for sample in samples["x"]:
        assert np.array_equal(cpu(sample), fpga(sample))


def test_casts_between_integers_and_floats():
    need_headers()
    nodes = [("Cast", "a", "b", {"to": F32}), ("Cast", "c", "d", {"to": I64})]
    net = model(nodes, [("a", I64, [7]), ("c", F32, [7])], [("b", F32, [7]), ("d", I64, [7])])
    module = kompilo.load(kompilo.compile(net, target="fpga:v80"), device="fpga:sim")
    whole = np.array([0, -1, 16777217, -16777219, -(2**40) - 3, 2**62, 12345678901])
    real = np.array([-2.5, -0.3, 0.0, 0.7, 3.99, -1e6, 4e6], np.float32)
    floats, integers = module(whole, real)
    np.testing.assert_allclose(floats, whole.astype(np.float32), rtol=1.2e-7)
    assert np.array_equal(floats[:4], whole[:4].astype(np.float32))
    assert np.array_equal(integers, real.astype(np.int64))


def test_rounding():
    """Odd numbers, halves, what is beyond 2^22, where float32 has a half at most, and beyond 2^23."""
    need_headers()
    kinds = ("Floor", "Ceil", "Round")
    nodes = [(kind, "x", kind.lower(), {}) for kind in kinds]
    net = model(nodes, [("x", F32, [13])], [(kind.lower(), F32, [13]) for kind in kinds])
    x = np.array([-2.5, -1, -0.3, 0, 0.5, 1.5, 2.7, 4194303.5, 4194304.5, -4194305.5, 8388609, -3e38, 3e38], np.float32)
    floor, ceil, near = kompilo.load(kompilo.compile(net, target="fpga:v80"), device="fpga:sim")(x)
    assert np.array_equal(floor, np.floor(x))
    assert np.array_equal(ceil, np.ceil(x))
    small = np.abs(x) < 2**22
    assert np.array_equal(near[small], np.round(x[small]))


def test_an_open_size_is_named():
    net = model([("Relu", "x", "y", {})], [("x", F32, ["n", 3])], [("y", F32, ["n", 3])])
    with pytest.raises(KompiloError, match="fixed sizes, found 'x' of nx3, whose dimension 'n' is open") as caught:
        kompilo.compile(net, target="fpga:u280")
    assert caught.value.hint == "fix it: --input x:1x3"
    assert kompilo.compile(net, target="fpga:u280", inputs={"x": [2, 3]}).targets[0].key == "fpga-u280"


def test_a_model_that_does_not_fit_says_what_is_missing():
    size = 1 << 19
    net = model([("Mul", "x w", "y", {})], [("x", F32, [size])], [("y", F32, [size])], w=normal(1, size)[0])
    message = r"within 166 usable block RAMs of 18 Kib, found one that needs \d+, \d+ too many"
    with pytest.raises(KompiloError, match=message) as caught:
        kompilo.compile(net, target="fpga:ecp5")
    assert caught.value.hint == "fpga:u50 has enough."


@pytest.mark.parametrize(
    ("kind", "dtype", "message"),
    [
        ("Mul", TensorProto.DOUBLE, "expected tensors of integers up to 64 bits, float16 or float32, found float64"),
        ("Div", TensorProto.INT32, "operator .*: expected divisions of float32"),
    ],
)
def test_what_hardware_has_not_is_named(kind, dtype, message):
    net = model([(kind, "x z", "y", {})], [("x", dtype, [3]), ("z", dtype, [3])], [("y", dtype, [3])])
    with pytest.raises(KompiloError, match=message):
        kompilo.compile(net, target="fpga:u280")


def test_a_project_is_not_the_artifact(tmp_path, capfd):
    path = tmp_path / "m.onnx"
    path.write_bytes(model([("Relu", "x", "y", {})], [("x", F32, [3])], [("y", F32, [3])]).SerializeToString())
    same = str(tmp_path / "p")
    assert run_command(["compile", str(path), "--target", "fpga:u50", "-o", same, "--project", same]) == 2
    assert "expected two places for output and project" in capfd.readouterr().err
    assert not (tmp_path / "p").exists()


def test_projects_are_of_hardware(tmp_path):
    net = model([("Relu", "x", "y", {})], [("x", F32, [3])], [("y", F32, [3])])
    with pytest.raises(KompiloError, match="expected one target that builds hardware"):
        kompilo.compile(net, target="cpu", project=tmp_path)
