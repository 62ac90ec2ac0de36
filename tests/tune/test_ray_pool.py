"""Measuring on a Ray cluster, whose nodes are processes of this machine."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kompilo.compiler.errors import KompiloError, UsageError
from kompilo.compiler.schedule.target import find_target
from kompilo.compiler.tune import ray_clock, ray_node, ray_pool
from kompilo.compiler.tune.measure import pool as measure_pool
from kompilo.compiler.tune.measure.pace import Reading
from kompilo.compiler.tune.measure.pace_memory import remember
from kompilo.compiler.tune.measure.pool import Job, MeasurePool
from kompilo.compiler.tune.measure.protocol import Setup
from kompilo.compiler.tune.ray_cluster import ClusterNode, address_of
from kompilo.compiler.tune.ray_pool import RayPool
from kompilo.compiler.tune.record import UNCHECKED, Measurement, Record
from kompilo.compiler.tune.search import InGivenOrder, Search, TaskSearch
from kompilo.compiler.tune.session import NOTHING_LEFT, Limits, Session
from kompilo.compiler.tune.task import Task

from ray_target import ACTS, KEY, matmul, point

HERE = Path(__file__).parent
NAME = "raytest"
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed: kompilo[ray]")


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of the test's target, installed for this process and those that it starts."""
    info = tmp_path_factory.mktemp("site") / "raytest-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: raytest\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[kompilo.targets]\n{NAME} = ray_target:RayTestTarget\n")
    with pytest.MonkeyPatch.context() as patch:
        folders = [str(HERE), str(info.parent)]
        for folder in folders:
            patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", os.pathsep.join([*folders, *filter(None, [os.environ.get("PYTHONPATH")])]))
        yield NAME


class Nodes:
    """A cluster with a head that offers nothing."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 0, "object_store_memory": 80 << 20, "include_dashboard": False},
        )

    @property
    def address(self) -> str:
        return self.cluster.address

    def add(self, workers: int = 1, key: str = KEY, offers: str = KEY, **variables: str):
        """A node that says it offers `offers`, and whose target has `key`."""
        return self.cluster.add_node(
            num_cpus=0,
            object_store_memory=80 << 20,
            resources={offers: workers} if offers else None,
            env_vars={"RAY_TEST_KEY": key, **variables},
        )

    def remove(self, node, kill: bool = True) -> None:
        """Kill it, or let it say good-bye, of which the cluster knows at once."""
        self.cluster.remove_node(node, allow_graceful=not kill)


@pytest.fixture(scope="module")
def cluster(target: str) -> Iterator[Nodes]:
    nodes = Nodes()
    yield nodes
    nodes.cluster.shutdown()


@pytest.fixture
def nodes(cluster: Nodes) -> Iterator[Nodes]:
    """The cluster, whose nodes other than the head leave after the test."""
    yield cluster
    for node in list(cluster.cluster.worker_nodes):
        cluster.remove(node, kill=False)


def session(pool, ops) -> list[Record]:
    """All that an exhaustive session over `ops` records."""
    points = tuple(map(point, ACTS))
    tasks = [TaskSearch(Task(op, 1, points), points[0]) for op in ops]
    for task in tasks:
        task.predict_with(InGivenOrder())
    records: list[Record] = []
    made = Session(Search(tasks, exhaustive=True), pool, Limits(), KEY, "0", records.append)
    assert made.run().stopped == NOTHING_LEFT
    return records


def outcomes(records: list[Record]) -> set[tuple]:
    """What became of each candidate; how long, and how often, a busy machine has it measured is another matter."""
    reasons = (re.sub(r"after \d+ s", "after a while", r.measurement.reason) for r in records)
    return {(str(r.op), r.point, r.target, r.measurement.status, s) for r, s in zip(records, reasons, strict=True)}


def test_what_is_ready_is_taken_though_the_time_is_up(monkeypatch, target: str) -> None:
    """The cluster is one of words. The clock that its times are scaled to is kept for later sessions."""

    def get(number: int) -> dict[str, Any]:
        return {"done": [(number, asdict(Measurement("ok", 2e-3)))], "spent": {}, "reference_s": 5e-5}

    words = SimpleNamespace(
        wait=lambda calls, num_returns, timeout: (calls[:num_returns], calls[num_returns:]), get=get
    )
    monkeypatch.setattr(ray_pool, "import_ray", lambda: words)
    for reference, scaled in ((None, 2e-3), (5e-5, 2e-3), (1e-4, 4e-3)):
        kept: list[tuple[str, float]] = []
        monkeypatch.setattr(ray_pool, "kept_reference", lambda name, key, found=reference: found)
        monkeypatch.setattr(ray_pool, "keep_reference", lambda key, seconds, kept=kept: kept.append((key, seconds)))
        pool = RayPool(target)
        jobs = {number: Job(matmul(number), point("good")) for number in (1, 2)}
        for number, job in jobs.items():
            node = ClusterNode(str(number), "here", 1.0)
            pool._seats[node.id] = ray_pool._Seat(node, None, number, workers=1, jobs={number: job})
        pool._outstanding = len(jobs)
        assert [(j, m.seconds) for j, m in pool.results(0)] == [(j, pytest.approx(scaled)) for j in jobs.values()]
        assert kept == ([] if reference else [(KEY, 5e-5)])


@needs_ray
def test_a_session_records_what_a_local_one_does(nodes: Nodes, target: str) -> None:
    ops = [matmul(m) for m in (5, 16, 33)]
    nodes.add()
    nodes.add()
    with RayPool(target, nodes.address) as pool:
        found = session(pool, ops)
        assert pool.notes == []
        assert pool.spent["build"] > 0
    with MeasurePool(target) as local:
        expected = session(local, ops)
    assert outcomes(found) == outcomes(expected)
    assert len({(r.op, r.point) for r in found if r.measurement.ok}) == 2 * len(ops)
    assert all(r.measurement.seconds and r.measurement.error is not None for r in found if r.measurement.ok)


def test_what_nodes_cannot_check_is_unchecked_here(target: str) -> None:
    node = ClusterNode("1", "here", 1.0)
    pool, job = RayPool(target), Job(matmul(5), point("good"))
    seat = ray_pool._Seat(node, None, None, workers=1, jobs={1: job})
    answer = Measurement(UNCHECKED, reason="the reference does not know it", cache="cold")
    pool._note(seat, {"done": [(1, asdict(answer))], "spent": {}, "reference_s": None})
    assert list(pool._finished) == [(job, Measurement(UNCHECKED, reason=answer.reason, cache=job.cache))]


def measured_until(pool: RayPool, count: int) -> list[tuple[Job, Measurement]]:
    done = []
    for result in pool.results():
        done.append(result)
        if len(done) == count:
            break
    return done


@needs_ray
def test_a_killed_node_loses_nothing(nodes: Nodes, target: str) -> None:
    """Its jobs in flight are done again elsewhere; every job has one result, and all are good."""
    jobs = [Job(matmul(8 + k), point("slow")) for k in range(8)]
    first = nodes.add()
    with RayPool(target, nodes.address) as pool:
        for job in jobs:
            pool.submit(job)
        done = measured_until(pool, 1)
        nodes.add()
        nodes.remove(first)
        done += list(pool.results(90.0))
        (note,) = pool.notes
        assert re.search("node .* was lost; jobs done again elsewhere: [12]$", note)
    assert Counter(job for job, _ in done) == Counter(jobs)
    assert all(m.ok for _, m in done)


@needs_ray
def test_an_actor_that_dies_on_a_living_node_is_replaced(nodes: Nodes, target: str) -> None:
    import ray

    node = nodes.add()
    jobs = [Job(matmul(8 + k), point("quick")) for k in range(4)]
    with RayPool(target, nodes.address) as pool:
        for job in jobs:
            pool.submit(job)
        done = measured_until(pool, 1)
        ray.kill(pool._seats[node.node_id].actor)
        done += list(pool.results(60.0))
    assert Counter(job for job, _ in done) == Counter(jobs)
    assert all(m.ok for _, m in done)


@needs_ray
def test_a_job_that_nodes_do_not_survive_is_given_up(nodes: Nodes, target: str, monkeypatch) -> None:
    import ray

    monkeypatch.setattr(ray_pool, "MOST_LOSSES", 1)
    node = nodes.add()
    with RayPool(target, nodes.address) as pool:
        pool.submit(Job(matmul(8), point("slow")))
        seat = pool._seats[node.node_id]
        deadline = time.monotonic() + 60
        while not seat.jobs and time.monotonic() < deadline:
            assert not list(pool.results(0.1))
        ray.kill(seat.actor)
        ((_, measurement),) = pool.results(60.0)
    assert measurement.status == "crashed"
    assert measurement.reason == "the node was lost each of 1 times that it was measured."


@needs_ray
def test_a_node_of_another_kind_is_refused(nodes: Nodes, target: str) -> None:
    nodes.add(key="cpu-other")
    with RayPool(target, nodes.address) as pool:
        pool.submit(Job(matmul(8), point("quick")))
        with pytest.raises(KompiloError, match=f"no node .* is not used: expected target {KEY}, found cpu-other."):
            list(pool.results())
        nodes.add()
        ((_, measurement),) = pool.results(60.0)
        assert measurement.ok
        assert len(pool.notes) == 1


@needs_ray
def test_a_node_without_kompilo_or_with_another_is_refused(nodes: Nodes, target: str, monkeypatch) -> None:
    monkeypatch.setattr(ray_pool, "VERSION", "7.8.9")
    nodes.add()
    with RayPool(target, nodes.address) as pool:
        pool.submit(Job(matmul(8), point("quick")))
        with pytest.raises(KompiloError, match=r"is not used: expected Kompilo 7.8.9, found"):
            list(pool.results())


@needs_ray
def test_a_cluster_that_does_not_offer_the_target(nodes: Nodes, target: str) -> None:
    nodes.add(offers="cpu-other")
    with pytest.raises(UsageError, match=f"expected nodes of the Ray cluster with a resource '{KEY}', found none"):
        RayPool(target, nodes.address).__enter__()


@needs_ray
@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("127.0.0.1:9", "expected a Ray cluster at 127.0.0.1:9, found that nothing answers: Connection refused"),
        ("127.0.0.1", "expected an address such as ray:HOST:6379, found ray:127.0.0.1"),
        ("host.invalid:6379", "found that nothing answers: "),
    ],
)
def test_no_cluster(target: str, address: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        RayPool(target, address).__enter__()


@pytest.mark.parametrize(
    ("name", "given", "limit"), [(NAME, None, 10.0), ("cuda:sm_80", None, 60.0), ("cuda:sm_80", 7.0, 7.0)]
)
def test_nodes_give_candidates_the_time_that_a_local_pool_would(monkeypatch, target, name, given, limit) -> None:
    """The cluster is one of words: the actor is made in this process, and its workers are not started."""
    limits: list[float] = []

    class Actor:
        def options(self, **_: object) -> Actor:
            return self

        def remote(self, *arguments: Any) -> SimpleNamespace:
            node = ray_node.MeasureNode(*arguments)
            return SimpleNamespace(open=SimpleNamespace(remote=node.open))

    def keeper(setups: list[Setup], timeout_s: float, *_: object) -> SimpleNamespace:
        limits.append(timeout_s)
        return SimpleNamespace(start=lambda: None)

    strategies = SimpleNamespace(NodeAffinitySchedulingStrategy=lambda node, soft: None)
    for module in ("ray", "ray.util", "ray.util.scheduling_strategies"):
        monkeypatch.setitem(sys.modules, module, strategies)
    monkeypatch.setattr(ray_pool, "import_ray", lambda: SimpleNamespace(remote=lambda cls: Actor()))
    monkeypatch.setattr(ray_node.MeasureNode, "_unfit", lambda self: "")
    monkeypatch.setattr(measure_pool, "Keeper", keeper)
    node = ClusterNode("1", "here", 1.0)
    RayPool(name, **({} if given is None else {"timeout_s": given}))._start(node)
    assert limits == [limit]


def test_without_ray(target: str, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"needs ray, which is not installed. Hint: pip install 'kompilo\[ray\]'"):
        RayPool(target).__enter__()


@pytest.mark.parametrize(("text", "address"), [("ray", None), ("ray:h:1", "h:1"), ("ray:ray://h:1", "ray://h:1")])
def test_the_address_follows_the_word(text: str, address: str | None) -> None:
    assert address_of(text) == address


@pytest.mark.parametrize("text", ["", "rays", "ray:", "two", "0x"])
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected a number of processes, ray, or ray:ADDRESS, found"):
        address_of(text)


def test_the_clock_of_a_cluster_is_this_machine_s_or_the_first_node_s_and_kept(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("KOMPILO_CACHE", str(tmp_path))
    here = find_target("cpu").spec.key
    assert ray_clock.kept_reference("cpu", here) is None
    ray_clock.keep_reference(here, 4e-5)
    assert ray_clock.kept_reference("cpu", here) == 4e-5
    remember(tmp_path / "tune", Reading(5e-5, 2.0))
    assert ray_clock.kept_reference("cpu", here) == 5e-5
    (tmp_path / "tune" / "pace.json").unlink()  # as after the machine's next start
    assert ray_clock.kept_reference("cpu", here) == 5e-5
    assert ray_clock.kept_reference("cpu:znver4", "cpu-znver4-2c") is None
    remember(tmp_path / "tune", Reading(5e-5, 2.0))
    gpu = SimpleNamespace(spec=SimpleNamespace(key="g"), drives_device=True)
    monkeypatch.setattr(ray_clock, "find_target", lambda name: gpu)
    assert ray_clock.kept_reference("cuda", "g") is None, "GPUs have clocks of their own"
