"""What is told of this machine's devices and links."""

import json
import os

import pytest

from kompilo.compiler.cli.main import run_command
from kompilo.compiler.runtime import links, machine
from kompilo.compiler.runtime.links import Link, shared_memory_link
from kompilo.errors import KompiloError

ALLOWED = sorted(os.sched_getaffinity(0))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KOMPILO_CACHE", str(tmp_path))
    return tmp_path


def test_each_core_is_a_device_and_so_are_all_of_them():
    found = {facts.name: facts for facts in machine.cpu_devices(ALLOWED)}
    assert {f"cpu:{cpu}" for cpu in ALLOWED} <= found.keys()
    if len(ALLOWED) > 1 and ALLOWED[-1] - ALLOWED[0] == len(ALLOWED) - 1:
        assert f"cpu:{ALLOWED[0]}-{ALLOWED[-1]}" in found
    first = found[f"cpu:{ALLOWED[0]}"]
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert abs(first.memory_bytes - pages) < 0.05 * pages
    assert 0 < first.free_bytes <= first.memory_bytes
    assert 0 <= first.load <= 1


def test_loads_are_parts_of_the_time_between_two_looks(tmp_path, monkeypatch):
    """Of 100 ticks core 0 works 25, 10 of them for a guest's steal; core 3 rests."""
    stat = tmp_path / "stat"
    monkeypatch.setattr(machine, "_STAT", stat)
    texts = iter(
        [
            "cpu 9 9 9 9\ncpu0 100 0 50 1000 0 0 0 5\ncpu3 7 0 0 90 0 0 0 0\nintr 1",
            "cpu 9 9 9 9\ncpu0 110 0 55 1070 5 0 0 15\ncpu3 7 0 0 180 10 0 0 0\nintr 1",
        ]
    )
    monkeypatch.setattr(type(stat), "read_text", lambda path, *rest: next(texts))
    assert machine.core_loads(0.0) == {0: 0.25, 3: 0.0}


def test_links_are_measured_once(cache, monkeypatch):
    first = shared_memory_link()
    assert 1e-7 < first.latency_s < 0.1
    assert 1e8 < first.bytes_per_s < 1e13
    monkeypatch.setattr(links, "_latency", lambda: pytest.fail("measured again"))
    assert shared_memory_link() == first
    (place,) = (cache / "links").iterdir()
    place.write_text('{"latency_s": -1, "bytes_per_s": 5}')
    monkeypatch.setattr(links, "_latency", lambda: 3.0)
    monkeypatch.setattr(links, "_rate", lambda: 7.0)
    assert shared_memory_link() == Link(3.0, 7.0) == shared_memory_link()
    assert Link(3.0, 7.0).seconds(14) == 5.0


@pytest.mark.parametrize("partner", ["", "import os, sys, socket; socket.socket(fileno=int(sys.argv[1])).recv(1)"])
def test_a_partner_that_ends_too_early(cache, monkeypatch, partner):
    """With a message that it has not read, and behind one."""
    monkeypatch.setattr(links, "_PARTNER", partner)
    with pytest.raises(KompiloError, match=r"the link between cores cannot be measured: [^.]+\.$"):
        shared_memory_link()
    assert os.sched_getaffinity(0) == set(ALLOWED)
    assert not list(cache.rglob("*.json"))


def test_the_command_lists_them(cache, capsys):
    assert run_command(["devices"]) == 0
    text = capsys.readouterr().out
    assert f"cpu:{ALLOWED[0]}" in text
    assert "between cores, by shared memory" in text
    assert run_command(["devices", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["links"]["cpu"]["bytes_per_s"] > 0
    names = [device["name"] for device in told["devices"]]
    assert names[: len(ALLOWED)] == [f"cpu:{cpu}" for cpu in ALLOWED]
    assert all(device["problem"] for device in told["devices"] if device["capability"] == "")
