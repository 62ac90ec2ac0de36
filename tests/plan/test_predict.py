"""Graphs of models and artifacts, times from records and the cost model, and `kompilo plan` from end to end."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import kompilo
from kompilo.compiler.artifact.artifact import Artifact
from kompilo.compiler.cli.main import run_command
from kompilo.compiler.device_code import DeviceCode
from kompilo.compiler.errors import UsageError
from kompilo.compiler.plan.cluster import Cluster, Device
from kompilo.compiler.plan.work import COST_MODEL, INPUT, RECORD, ROOFLINE, TimedWork, WorkNode
from kompilo.compiler.predict.artifact import work_of_artifact
from kompilo.compiler.predict.model import work_of_model
from kompilo.compiler.predict.sizes import moved, types_in
from kompilo.compiler.predict.times import recorded_ops, target_times
from kompilo.compiler.schedule.flops import flops
from kompilo.compiler.schedule.target import find_target
from kompilo.compiler.tune.record import Measurement, Record
from kompilo.compiler.tune.store import RecordStore
from kompilo.compiler.tune.task import points_of

CLUSTER = """
entry = "near"
[[device]]
name = "near"
kind = "cpu"
flops_per_s = 1e10
bytes_per_s = 1e10
memory_bytes = 1e9
[[device]]
name = "far"
flops_per_s = 1e12
bytes_per_s = 1e11
memory_bytes = 1e9
[[link]]
between = ["near", "far"]
latency_s = 1e-6
bytes_per_s = 1e9
"""


def forked(path: Path, batch: int | str = 1) -> Path:
    """Two convolutions side by side behind a third, added, pooled, and a product: branches, a join, a view."""
    rng = np.random.default_rng(7)
    weights = {"w0": (8, 3, 3, 3), "w1": (8, 8, 3, 3), "w2": (8, 8, 1, 1), "w3": (8, 5)}
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["a", "w1"], ["b"], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["a", "w2"], ["c"]),
        helper.make_node("Add", ["b", "c"], ["d"]),
        helper.make_node("GlobalAveragePool", ["d"], ["e"]),
        helper.make_node("Flatten", ["e"], ["f"]),
        helper.make_node("MatMul", ["f", "w3"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "forked",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 17, 15])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 5])],
        [numpy_helper.from_array(rng.standard_normal(s).astype("float32"), n) for n, s in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return forked(tmp_path_factory.mktemp("plan") / "forked.onnx")


@pytest.fixture(scope="module")
def artifact(model) -> Path:
    path = model.with_suffix(".kpo")
    kompilo.compile(str(model), records=False).save(path)
    return path


@pytest.fixture
def run(capfd):
    """Runs a command line: (exit code, stdout, stderr)."""

    def call(*args: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = run_command([str(a) for a in args])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def described(tmp_path) -> Path:
    path = tmp_path / "cluster.toml"
    path.write_text(CLUSTER)
    return path


def test_a_model_and_its_artifact_are_the_same_work(model, artifact):
    opened = Artifact.open(artifact)
    of_model = work_of_model(str(model), find_target("cpu"), records=False).graph
    of_artifact = work_of_artifact(opened, opened.targets[0])
    assert [replace(n, name="") for n in of_model.nodes] == [replace(n, name="") for n in of_artifact.nodes]
    assert sorted((v.producer, v.size, v.consumers, v.is_result) for v in of_model.values) == sorted(
        (v.producer, v.size, v.consumers, v.is_result) for v in of_artifact.values
    )


def test_the_graph_of_a_model_is_what_it_computes(model):
    graph = work_of_model(str(model), find_target("cpu"), records=False).graph
    assert sum(n.flops for n in graph.nodes if n.kind == "conv2d") == pytest.approx(
        2 * 17 * 15 * 8 * (27 + 72 + 8), rel=0.02
    )  # and the additions of epilogues
    assert graph.input_bytes == 3 * 17 * 15 * 4
    assert graph.result_bytes == 5 * 4
    assert graph.weight_bytes >= 4 * (8 * 27 + 8 * 72 + 64 + 40)  # packing may add to them
    inputs = [v for v in graph.values if v.producer == INPUT]
    assert len(inputs) == 1
    forks = [v for v in graph.values if len(v.consumers) == 2]
    assert [v.size for v in forks] == [8 * 17 * 15 * 4]


def test_sizes_that_only_runs_tell_are_refused(tmp_path, run, described):
    model = forked(tmp_path / "dynamic.onnx", "N")
    with pytest.raises(UsageError, match="expected sizes that are known before a run, found"):
        work_of_model(str(model), find_target("cpu"), records=False)
    assert work_of_model(str(model), find_target("cpu"), {"x": (2, 3, 17, 15)}, records=False).graph.result_bytes == 40
    code, _, err = run("plan", model, "--cluster", described)
    assert code == 2
    assert "hint: compile, or plan, with --input NAME:1x3x224x224." in err


def test_what_stays_on_the_host_is_not_planned(tmp_path, run, described):
    """Alone, and ahead of what is compiled; of models and of artifacts."""
    same, cast = helper.make_node("Equal", ["s", "t"], ["b"]), helper.make_node("Cast", ["b"], ["y"], to=1)
    for nodes, name, kind in (((same,), "b", TensorProto.BOOL), ((same, cast), "y", TensorProto.FLOAT)):
        inputs = [helper.make_tensor_value_info(n, TensorProto.STRING, [3]) for n in "st"]
        graph = helper.make_graph(list(nodes), "strings", inputs, [helper.make_tensor_value_info(name, kind, [3])])
        path = tmp_path / f"{name}.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9), path)
        kompilo.compile(path).save(path.with_suffix(".kpo"))
        for planned in (path, path.with_suffix(".kpo")):
            code, _, error = run("plan", planned, "--cluster", described)
            assert code == 2
            assert "expected a model to plan that is compiled as a whole, found Equal node" in error


def test_designs_are_not_planned(artifact):
    whole = Artifact.open(artifact)
    code = replace(whole.targets[0], name="fpga:u280", device=(DeviceCode("design", "u280", b"", ()),))
    with pytest.raises(UsageError, match="with a program to plan, found the design of 'fpga:u280'"):
        work_of_artifact(whole, code)


def test_sizes_are_read_from_texts():
    spec = "conv2d(float32[1,55,55,16], const float16[64,16,1,1]) {strides=1x1} -> float32[1,55,55,64] | relu(s0)"
    assert [(t.dtype, t.shape[-1]) for t in types_in(spec, "c")] == [("float32", 16), ("float16", 1), ("float32", 64)]
    assert [t.shape for t in types_in("add(float32[T.int64(3),T.int64(4)], bool[])", "add")] == [(3, 4), ()]
    with pytest.raises(UsageError, match=r"add: expected sizes that are known before a run, found float32\[n\]"):
        types_in("add(float32[n])", "add")


def test_tables_that_are_looked_up_are_not_read_whole():
    assert moved("take", [8.0], [1e9], [400.0]) == 8 + 400 + 400
    assert moved("matmul_0", [8.0], [1e9], [400.0]) == 8 + 1e9 + 400


def test_times_come_from_records_then_from_the_cost_model_then_from_the_roofline(model, tmp_path):
    target = find_target("cpu:cascadelake")
    work = work_of_model(str(model), target, records=False)
    convs = [work.ops[n.spec] for n in work.graph.nodes if n.kind == "conv2d"]
    point = points_of(convs[0], target)[-1]
    store = RecordStore(tmp_path / "records")
    store.append(Record(convs[0], target.spec.key, point, Measurement("ok", 3e-3, 0.01, 9, error=0.0), "2026-01-01"))
    plain = Device("plain", "x", 1e10, 1e10, 1e9)
    known = replace(plain, name="known", target="cpu:cascadelake")
    twice = replace(known, name="twice", cores=7)
    cluster = Cluster((plain, known, twice), links=_links("plain", "known", "twice"))
    timed = TimedWork.predict(work.graph, cluster, [target_times(cluster, work.ops, tmp_path / "records")])
    first = next(k for k, n in enumerate(work.graph.nodes) if n.spec == str(convs[0]))
    other = next(k for k, n in enumerate(work.graph.nodes) if n.spec == str(convs[1]))
    plainly = next(k for k, n in enumerate(work.graph.nodes) if not n.spec)
    assert [p.source for p in timed.predictions[first]] == [ROOFLINE, RECORD, RECORD]
    assert timed.seconds[first, 1:].tolist() == [3e-3, pytest.approx(3e-3 / 7)]
    assert timed.predictions[other][1].source == COST_MODEL
    gflops = (flops(convs[1]) or 0) / timed.seconds[other, 1] / 1e9
    assert 1 < gflops < 1000
    assert timed.predictions[plainly][1].source == ROOFLINE
    assert str(convs[0]) in recorded_ops(cluster, tmp_path / "records")
    unknown = target_times(cluster, {}, tmp_path / "records")
    assert unknown(WorkNode("n", "conv2d", 1, 1, spec="?"), known) is None


def _links(*names: str):
    from kompilo.compiler.plan.cluster import Link

    return tuple(((a, b), Link(f"{a}-{b}", 0.0, 1e9)) for k, a in enumerate(names) for b in names[k + 1 :])


def test_plan_prints_tables_and_says_that_it_predicts(run, model, described):
    code, out, err = run("plan", model, "--cluster", described)
    assert (code, err) == (0, "")
    assert "This is a prediction by a simulation" in out
    assert "far" in out
    assert "Routes" in out


def test_plan_of_an_artifact_as_json_with_a_page(run, artifact, described, tmp_path):
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    page = tmp_path / "plan.html"
    code, out, _ = run("plan", artifact, "--cluster", described, "--objective", "throughput", "--json", "--html", page)
    assert code == 0
    facts = json.loads(out)
    assert facts["objective"] == "throughput"
    assert facts["prediction"]["sources"] == {"roofline": pytest.approx(1.0)}
    assert page.read_text().startswith("<!DOCTYPE html>")


def test_a_deadline_that_cannot_be_kept_is_exit_code_1(run, artifact, described):
    code, out, _ = run("plan", artifact, "--cluster", described, "--deadline", "1us")
    assert code == 1
    assert "behind the deadline of 1 us" in out
    assert run("plan", artifact, "--cluster", described, "--deadline", "1s")[0] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--objective", "speed"), "expected one of latency, throughput, energy, cost, found 'speed'"),
        (("--deadline", "20"), "expected --deadline as 20ms, 800us or 1.5s, found '20'"),
        (("--deadline", "xms"), "expected --deadline as 20ms, 800us or 1.5s, found 'xms'"),
        (("--micro-batches", "a"), "expected --micro-batches N or N,M with positive numbers, found 'a'"),
        (("--micro-batches", "0"), "micro-batches: expected numbers of at least 1"),
        (("--html", "/nowhere/x.html"), "the directory '/nowhere' of the HTML page does not exist"),
        (("--input", "x:1x3x17x15"), "expected --input for a model, found an artifact"),
    ],
)
def test_plan_refuses_nonsense_in_one_sentence(run, artifact, described, options, message):
    code, out, err = run("plan", artifact, "--cluster", described, *options)
    assert (code, out) == (2, "")
    assert message in err


def test_a_cluster_that_is_not_there(run, artifact):
    code, _, err = run("plan", artifact, "--cluster", "missing.toml")
    assert code == 2
    assert "cannot read the cluster 'missing.toml'" in err
