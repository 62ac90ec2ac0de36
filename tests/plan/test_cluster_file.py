"""Clusters as TOML: what is read, and the sentence for each thing that can be wrong."""

from __future__ import annotations

import pytest

from kompilo.compiler.errors import UsageError
from kompilo.compiler.plan.cluster_file import parse_cluster, read_cluster
from kompilo.compiler.plan.work import INPUT, RECORD, ROOFLINE, Prediction, TimedWork, Value, WorkGraph, WorkNode

DEVICE = """
[[device]]
name = "{0}"
flops_per_s = 1e12
bytes_per_s = 1e11
memory_bytes = 1e9
"""
TWO = DEVICE.format("one") + DEVICE.format("two")
LINK = '[[link]]\nbetween = ["one", "two"]\nlatency_s = 1e-3\nbytes_per_s = 1e9\n'


FULL = (
    """
entry = "a0"
[[node]]
name = "a"
site = "north"
latency_s = 1e-6
bytes_per_s = 1e10
[[node]]
name = "b"
site = "north"
[[node]]
name = "c"
site = "south"
[[device]]
name = "a0"
kind = "big"
node = "a"
flops_per_s = 1e12
peaks = { float16 = 4e12 }
bytes_per_s = 100e9
memory_bytes = 8_000_000_000
watts_idle = 10
watts_active = 60.5
price_per_hour = 2
overhead_s = 1e-6
speed = { conv2d = 0.5, default = 0.25 }
target = "cpu"
cores = 4
"""
    + "".join(DEVICE.format(f"{n}{k}") + f'node = "{n}"\n' for n, k in (("a", 1), ("b", 0), ("c", 0)))
    + """
[[link]]
between = ["b", "a"]
latency_s = 1e-5
bytes_per_s = 1e9
[[link]]
between = ["north", "south"]
latency_s = 1e-2
bytes_per_s = 1e8
[[link]]
between = ["a1", "b0"]
latency_s = 0
bytes_per_s = 5e9
"""
)


def test_everything_that_a_file_can_say_of_devices(tmp_path):
    path = tmp_path / "cluster.toml"
    path.write_text(FULL)
    found = read_cluster(path)
    first = found.devices[0]
    assert (first.kind, first.cores, first.target, first.watts_active) == ("big", 4, "cpu", 60.5)
    assert first.part_of_roofline("conv2d") == 0.5
    assert first.part_of_roofline("matmul") == 0.25
    assert first.roofline.rate("float16") == 4e12
    assert found.devices[1].kind == "a1"
    assert found.devices[1].part_of_roofline("matmul") == 1.0
    assert found.entry_index == 0


def test_everything_that_a_file_can_say_of_links():
    found = parse_cluster(FULL)
    names = {(a, b): found.joined(a, b).link.name for a in range(4) for b in range(4) if a != b}
    assert names[0, 1] == names[1, 0] == "a"  # the bus
    assert names[0, 2] == "b-a"
    assert names[1, 2] == "a1-b0"  # its own link comes before that of its node
    assert names[0, 3] == names[2, 3] == "north-south"
    # A bus serves one transfer at a time, links one each way.
    assert found.joined(0, 1).resource == found.joined(1, 0).resource
    assert found.joined(0, 3).resource != found.joined(3, 0).resource
    assert found.joined(0, 3).resource == found.joined(1, 3).resource
    assert found.way(2, 2) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = [", "here: expected TOML, found an error: "),
        ("", "here: expected device, tables, found none."),
        ("device = 3", "here: expected device to be tables, found 3."),
        ("[[device]]\nname = 'x'", r"here: \[\[device\]\] 1: expected flops_per_s, a number, found none."),
        (TWO + "colour = 'red'", r"here: \[\[device\]\] 2: expected fields among name, .*, cores, found 'colour'."),
        (TWO + "watts_idle = '3'", r"expected watts_idle to be a number, found '3'."),
        (TWO + "watts_idle = true", r"expected watts_idle to be a number, found True."),
        (TWO + "overhead_s = nan", r"expected overhead_s to be a number, found nan."),
        (TWO + "overhead_s = 1" + "0" * 400, r"expected overhead_s to be a number, found 10+\."),
        (TWO + "cores = 1.5", r"expected cores to be a whole number, found 1.5."),
        (TWO + "cores = 0", r"here: device 'two': expected cores to be a number above 0, found 0."),
        (TWO + "watts_idle = 9", r"device 'two': expected watts_active to be at least watts_idle, found 0.0."),
        (TWO + "price_per_hour = -1", r"expected price_per_hour to be a number of at least 0, found -1.0."),
        (TWO + "speed = { conv2d = 1.5 }", r"expected speed.conv2d to be a number above 0 and at most 1, found 1.5."),
        (TWO + "speed = { conv2d = 'x' }", r"expected speed to be a table of numbers, found \{'conv2d': 'x'\}."),
        (TWO + "peaks = { float16 = 0 }", r"expected peaks.float16 to be a number above 0, found 0.0."),
        (TWO + "node = 'm'", r"here: device 'two': node: expected one of none, found 'm'."),
        (TWO, r"here: cluster: expected a link between any two devices, found none between 'one' and 'two'."),
        (TWO + DEVICE.format("one"), r"expected a name for each device, node and site, found 'one' twice."),
        ("entry = 'three'\n" + TWO + LINK, r"here: cluster: entry: expected one of one, two, found 'three'."),
        (TWO + LINK + LINK, r"here: \[\[link\]\]: expected one between any two, found several between one and two."),
        (TWO + LINK.replace("two", "one"), r"link 'one-one': expected two different ends, found 'one' twice."),
        (TWO + LINK.replace("two", "x"), r"link 'one-x': between: expected one of one, two, found 'x'."),
        (TWO + LINK.replace('"one", ', ""), r"\[\[link\]\] 1: expected between to be two names, found \['two'\]."),
        (TWO + LINK.replace("1e9", "0"), r"link 'one-two': expected bytes_per_s to be a number above 0, found 0.0."),
        (
            TWO + LINK + "[[node]]\nname = 'm'\nlatency_s = 1",
            r"\[\[node\]\] 1: expected both latency_s and bytes_per_s",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(text, message):
    with pytest.raises(UsageError, match=message) as caught:
        parse_cluster(text, "here")
    assert "\n" not in caught.value.message


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UsageError, match=r"cannot read the cluster '.*x.toml': no such file or directory."):
        read_cluster(tmp_path / "x.toml")
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="it is no UTF-8 text"):
        read_cluster(tmp_path / "x.toml")


def test_predictions_come_from_who_knows_first_else_from_the_roofline():
    described = parse_cluster(TWO + "speed = { conv2d = 0.5 }\npeaks = { float16 = 4e12 }\noverhead_s = 1e-6\n" + LINK)
    nodes = (
        WorkNode("a", "conv2d", 2e9, 1e6),
        WorkNode("b", "conv2d", 1e6, 1e9),
        WorkNode("c", "x", 4e9, 0, 2e8, dtype="float16"),
        WorkNode("v", "view", 0, 0),
    )
    graph = WorkGraph("g", nodes, (Value(0, 8, (1, 2, 3)),))
    known = Prediction(7.0, RECORD, 0.05)
    work = TimedWork.predict(graph, described, [lambda n, d: known if (n.name, d.name) == ("a", "one") else None])
    assert work.seconds.tolist() == [[7.0, 4e-3], [1e-2, 2e-2], [4e-3, 1e-3], [0.0, 0.0]]
    assert work.overheads[:, 1].tolist() == [1e-6, 1e-6, 1e-6, 0.0]
    # Half a request reads all weights, which on the second device takes longer than half of the time.
    assert work.durations(2)[2].tolist() == [2e-3, 1e-3 + 1e-6]
    error, parts = work.expected_error([(0, 0), (1, 0)])
    assert parts == {RECORD: pytest.approx(7 / 7.01), ROOFLINE: pytest.approx(0.01 / 7.01)}
    assert error == pytest.approx((0.05 * 7 + 0.55 * 0.01) / 7.01)


@pytest.mark.parametrize(
    ("nodes", "values", "message"),
    [
        ((), (), "expected at least one operator to plan, found none"),
        ((WorkNode("a", "x", 1, 1),), (Value(0, 1, (0,)),), "expected tensors to go to later operators"),
        ((WorkNode("a", "x", 1, 1),), (Value(INPUT, 1, (1,)),), "expected tensors to go to later operators"),
        ((WorkNode("a", "x", 1, 1),), (Value(INPUT, -1, (0,)),), "expected tensors of at least 0 bytes, found -1"),
    ],
)
def test_graphs_check_themselves(nodes, values, message):
    with pytest.raises(UsageError, match=message):
        WorkGraph("g", nodes, values)


def test_nodes_check_themselves():
    with pytest.raises(UsageError, match="operator 'a': expected flops of at least 0, found -1"):
        WorkNode("a", "x", -1, 0)
