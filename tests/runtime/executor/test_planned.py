"""Plans by measuring on this machine, and the verbs that make them and run them."""

import json

import numpy as np
import pytest

from kompilo.compiler.artifact.artifact import Artifact
from kompilo.compiler.cli.main import run_command
from kompilo.compiler.plan.cluster import Link
from kompilo.compiler.plan.plan import Plan, Route, Stage
from kompilo.compiler.predict import measured
from kompilo.compiler.runtime.executor.measure import latency, measure_pieces, throughput
from kompilo.compiler.runtime.executor.placement import Placement, pieces_of

from branching import branching_model, sample

LINK = Link("shared memory", 1e-5, 1e9)


def test_pieces_are_timed_on_each_device(artifact, devices):
    """Every piece has a time; one device's do not depend on whether all are measured at once but for noise."""
    opened = Artifact.open(artifact)
    for together in (False, True):
        times, handover = measure_pieces(opened, devices, {"x": sample()}, 0.05, together)
        assert len(times) == len(opened.segments)
        assert all(len(row) == 2 and 1e-7 < min(row) <= max(row) < 5 for row in times)
        assert 0 < handover < 5


@pytest.mark.parametrize("objective", ["latency", "throughput"])
def test_a_slow_device_is_left_out_of_latency_and_used_for_throughput(artifact, devices, objective, monkeypatch):
    """With times as if they were measured: the second device takes twice as long for each piece."""
    opened = Artifact.open(artifact)
    count = len(opened.segments)
    times = [[1e-3, 2e-3]] * count
    monkeypatch.setattr(measured, "measure_pieces", lambda *rest: (times, 1e-4))
    reached = {"latency": (6e-3, 12e-3, 5e-3), "throughput": (160.0, 80.0, 230.0)}[objective]
    ran = []

    def run(artifact, placement, inputs, seconds, ask):
        used = {stage.device for route in placement.routes for stage in route.stages}
        ran.append(placement)
        return reached[2 if len(used) > 1 else used.pop()]

    monkeypatch.setattr(measured, "_run", run)
    found = measured.measured_plan(opened, devices, {}, LINK, objective, 1e12, 1.0)
    assert found.alone == reached[:2]
    assert all(placement.check(opened) is None for placement in ran)
    if objective == "throughput":
        assert found.predicted == pytest.approx(1.5 / (count * 1e-3), rel=0.03)
        assert found.figure == found.measured == 230.0
        assert len(found.placement.routes) == 2
    else:
        # Branches may run side by side, but a piece that takes 2 ms elsewhere gains nothing.
        assert found.predicted == pytest.approx(count * 1e-3, rel=0.2)
    # A plan that is slower than a device alone when it is run is not taken.
    reached = {"latency": (6e-3, 12e-3, 50e-3), "throughput": (160.0, 80.0, 130.0)}[objective]
    found = measured.measured_plan(opened, devices, {}, LINK, objective, 1e12, 1.0)
    assert found.placement.single == 0
    assert found.figure == reached[0]


def test_a_device_alone_is_measured_without_a_worker(pipeline, devices):
    single = pipeline(devices[:1])
    rate, seconds = throughput(single, {"x": sample()}, 0.05), latency(single, {"x": sample()}, 0.05)
    assert single._executor is None
    assert 0.01 < rate * seconds < 100  # of windows this short, in which others may have the core


def test_stages_are_joined_only_where_nobody_waits_for_it(artifact):
    """In a chain 0 - 1 - 2 - 3 on devices A A B A the first two become one stage; where B reads 0 they do not."""
    pieces = pieces_of(Artifact.open(artifact))
    opened = Artifact.open(artifact)
    work = measured._work(opened, pieces, ["cpu:0", "cpu:1"], [[1.0, 1.0]] * len(pieces), LINK, 1e12)
    graph = work.graph
    chain = [k for k in range(1, len(pieces)) if graph.predecessors(k) == {k - 1} and graph.successors(k - 1) == {k}]
    for k in range(1, len(pieces)):
        route = Route(tuple(Stage(0, (n,)) for n in (k - 1, k)))
        joined = measured._route(route, graph)
        waits = graph.predecessors(k) - graph.predecessors(k - 1) - {k - 1}
        elsewhere = graph.successors(k - 1) - {k}
        assert len(joined.stages) == (1 if not waits and not elsewhere else 2)
    assert all(len(measured._route(Route((Stage(0, (k - 1,)), Stage(1, (k,)))), graph).stages) == 2 for k in chain)
    plan = Plan((Route(tuple(Stage(n % 2, (n,)) for n in range(len(pieces))), 0.4), Route((Stage(1, (0,)),), 0.0)))
    assert len(measured._placement(plan, work, ["cpu:0", "cpu:1"], [[1.0, 1.0]] * len(pieces)).routes) == 1


def test_the_command_line_plans_runs_and_measures(artifact, devices, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("KOMPILO_CACHE", str(tmp_path / "cache"))
    names, plan = ",".join(devices), tmp_path / "plan.json"
    planned = ["plan", str(artifact), "--devices", names, "--objective", "throughput", "--seconds", "0.05"]
    known, really = [], measured.measured_plan

    def once(*given):
        known[:] = known or [really(*given)]
        return known[0]

    monkeypatch.setattr(measured, "measured_plan", once)
    assert run_command([*planned, "-o", str(plan)]) == 0
    out = capsys.readouterr().out
    assert f"{devices[0]} alone:" in out
    assert "predicted" in out
    placement = Placement.read(plan)
    assert placement.devices == tuple(devices)
    assert set(placement.predicted) == {"throughput", "measured throughput"}
    assert run_command([*planned, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["alone"].keys() == set(devices)
    np.savez(tmp_path / "x.npz", x=sample())
    outputs = []
    for extra in (["--plan", str(plan)], ["--devices", names], []):
        out = tmp_path / f"out{len(outputs)}.npz"
        given = ["--input", f"x={tmp_path / 'x.npz'}", "-o", str(out), *extra]
        assert run_command(["run", str(artifact), *given]) == 0
        outputs.append(np.load(out)["y"])
    capsys.readouterr()
    for found in outputs[:2]:
        np.testing.assert_allclose(found, outputs[2], rtol=1e-4, atol=1e-6)
    assert run_command(["bench", str(artifact), "--devices", names, "--seconds", "0.05", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["alone"].keys() == set(devices)
    assert told["of_the_sum"] > 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["plan", "ARTIFACT"], "expected either --cluster or --devices, found neither"),
        (["plan", "zoo:mnist", "--devices", "cpu:0"], "expected an artifact with --devices, found a model"),
        (
            ["plan", "ARTIFACT", "--devices", "cpu:0", "--objective", "cost"],
            "expected --objective latency or throughput",
        ),
        (["plan", "ARTIFACT", "--cluster", "CLUSTER"], "expected an artifact of one piece with --cluster"),
        (
            ["plan", "ARTIFACT", "--devices", "cpu:0", "--deadline", "5ms", "--html", "x.html"],
            "expected --devices without --deadline and --html, found both",
        ),
        (
            ["plan", "ARTIFACT", "--cluster", "CLUSTER", "-o", "plan.json"],
            "expected --cluster without --output, found both",
        ),
        (
            ["run", "ARTIFACT", "--devices", "cpu:0", "--threads", "2"],
            "expected either --devices and --plan, or --device",
        ),
        (["bench", "ARTIFACT", "--plan", "none.json"], "expected a file that kompilo plan wrote"),
    ],
)
def test_what_the_verbs_refuse(artifact, arguments, said, tmp_path, capsys):
    cluster = tmp_path / "c.toml"
    cluster.write_text('[[device]]\nname = "a"\nkind = "k"\nflops_per_s = 1e9\nbytes_per_s = 1e9\nmemory_bytes = 1e9\n')
    words = {"ARTIFACT": str(artifact), "CLUSTER": str(cluster)}
    assert run_command([words.get(word, word) for word in arguments]) == 2
    assert said in capsys.readouterr().err


def test_open_dimensions_cannot_be_planned(tmp_path, devices, capsys):
    import kompilo

    path = tmp_path / "open.kpo"
    kompilo.compile(branching_model(tmp_path / "m.onnx", "h")).save(path)
    assert run_command(["plan", str(path), "--devices", ",".join(devices)]) == 2
    assert "expected tensors of fixed sizes" in capsys.readouterr().err
