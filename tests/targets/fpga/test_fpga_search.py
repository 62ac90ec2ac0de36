"""The search of designs: better ones within the part, exact to the cycle, recorded, and built from the record."""

import json
from xml.etree import ElementTree

import numpy as np
import pytest
from test_fpga_models import F32, model, normal, read

import kompilo
from kompilo.compiler.cli.main import run_command
from kompilo.compiler.errors import TargetError, UsageError
from kompilo.compiler.schedule.whole_design import DesignPoint, front
from kompilo.compiler.tune.design_records import DesignRecord, add_design, designs_of, path_of
from kompilo.compiler.tune.design_report import design_page
from kompilo.compiler.tune.designs import tune_design
from kompilo.compiler.tune.store import RecordStore
from kompilo.targets.fpga.design.space import FpgaDesigns, known_design, model_key
from kompilo.targets.fpga.presets import fpga_spec
from kompilo.targets.fpga.sim.case import Case
from kompilo.targets.fpga.sim.csim import CSimulator
from kompilo.targets.fpga.sim.rtl import simulate_rtl

from fpga_cases import need, need_headers

KEY = "fpga-zcu104"


def network(seed: int = 0, channels: int = 16):
    """Convolutions of odd sizes, their sums of 16 and 3 x 3 x 16 products, and a pooling."""
    nodes = [
        ("Conv", "x w1 b1", "c1", {"pads": [1, 1, 1, 1]}),
        ("Relu", "c1", "r1", {}),
        ("Conv", "r1 w2", "c2", {"strides": [2, 2]}),
        ("MaxPool", "c2", "p", {"kernel_shape": [2, 2]}),
        ("Conv", "p w3", "y", {}),
    ]
    weights = {"w1": normal(channels, 3, 3, 3), "b1": normal(channels), "w2": normal(8, channels, 3, 3)}
    weights = {name: w + np.float32(seed) for name, w in {**weights, "w3": normal(5, 8, 1, 1)}.items()}
    return model(nodes, [("x", F32, [1, 3, 9, 11])], [("y", F32, [1, 5, 2, 2])], **weights)


CALIBRATION = {"x": np.random.default_rng(1).standard_normal((3, 1, 3, 9, 11)).astype(np.float32)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("records")


@pytest.fixture(scope="module")
def report(folder):
    options = {"precision": "int8", "calibration": CALIBRATION, "records": folder}
    return tune_design(network(), "fpga:zcu104", budget=None, trials=14, **options)


def test_the_best_design_is_faster_than_the_default_and_fits(report):
    assert report.default is not None
    assert report.best.cycles < report.default.cycles
    assert report.speedup == report.default.cycles / report.best.cycles
    assert all(used <= usable for point in report.tried for _, used, usable in point.resources)
    assert len(report.tried) == 1 + 14
    best = front(report.tried, "dsp")
    assert len(best) >= 4
    assert best[0] == report.best


def test_a_front_has_no_point_that_another_beats():
    points = [DesignPoint((), c, 1.0, (("dsp", d, 9),)) for c, d in ((5, 4), (3, 7), (3, 6), (4, 6), (9, 1), (9, 2))]
    assert [(p.cycles, p.resources[0][1]) for p in front(points, "dsp")] == [(3, 6), (5, 4), (9, 1)]


def test_rtl_of_a_searched_design_takes_its_cycles(tmp_path):
    """In float32, where sums are interleaved as well; lanes of a third of an axis' elements."""
    need("verilator")
    need_headers()
    found = read(network(), "ecp5")
    space = FpgaDesigns(found, fpga_spec("ecp5"))
    point = next(iter(space.points(0, lambda: False)))
    design = known_design(found, fpga_spec("ecp5"), _known(point))
    assert design.cycles == point.cycles
    assert max(s.terms for s in design.stages) >= 3
    rng = np.random.default_rng(2)
    given = {design.inputs[0]: rng.standard_normal(297).astype(np.float32), **dict(design.weights)}
    expected = CSimulator([design.simulated], tmp_path).run([Case(design.simulated, given)]).outcomes[0].outputs
    outcome = simulate_rtl([Case(design.kernel, given, expected)]).outcomes[0]
    assert outcome.mismatches == 0
    assert outcome.cycles == point.cycles


def _known(point):
    return DesignRecord("t", "d", "m", point, "2026-11-22T00:00:00Z", "0").known()


def test_structures_of_other_weights_are_the_same_and_of_other_sizes_not():
    first = model_key(read(network(), "zcu104"))
    assert first == model_key(read(network(seed=1), "zcu104"))
    assert first != model_key(read(network(channels=32), "zcu104"))


def test_compile_builds_what_is_recorded(report, folder):
    options = {"precision": "int8", "calibration": CALIBRATION}
    made = kompilo.compile(network(seed=0), "fpga:zcu104", records=folder, **options)
    code = made.targets[0]
    assert {o.source[:10] for o in code.operators} == {"record of "}
    assert json.loads(code.device[0].code)["cycles"] == report.best.cycles
    assert made.provenance["records"]["used"] == len(code.operators)
    assert made.provenance["records"]["files"] == [f"{folder.name}:{KEY}/designs.ndjson"]
    plain = kompilo.compile(network(seed=0), "fpga:zcu104", records=False, **options)
    assert json.loads(plain.targets[0].device[0].code)["cycles"] == report.default.cycles
    need_headers()
    assert np.array_equal(*(kompilo.load(m, device="fpga:sim")(CALIBRATION["x"][0]) for m in (made, plain)))


@pytest.mark.parametrize("folds", [((1, 1),), ((3, 1),) * 6, ((512, 512),) * 6, ((1, 1, 1),) * 6])
def test_records_that_do_not_hold_are_passed_over(folds, report, tmp_path):
    store = RecordStore(tmp_path)
    point = DesignPoint(folds, 1, 1e-9, report.best.resources)
    add_design(store, DesignRecord(KEY, report.key, "m", point, "2026-11-22T00:00:00Z", "0"))
    assert [r.point for r in designs_of(store, KEY, report.key)] == [point]
    made = kompilo.compile(network(), "fpga:zcu104", records=tmp_path, precision="int8", calibration=CALIBRATION)
    assert {o.source for o in made.targets[0].operators} == {"default"}
    assert made.provenance["records"]["used"] == 0


def test_broken_lines_are_passed_over(report, tmp_path):
    store = RecordStore(tmp_path)
    record = DesignRecord(KEY, report.key, "m", report.best, "2026-11-22T00:00:00Z", "0")
    add_design(store, record)
    with path_of(store, KEY).open("a") as file:
        file.write(record.to_line()[:90])
        file.write("\n" + record.to_line().replace('"schema":1', '"schema":2'))
        file.write(record.to_line().replace('"cycles":', '"cycles":-'))
    assert designs_of(store, KEY, report.key) == [record]


def test_a_session_goes_on_from_its_records(report, folder):
    options = {"precision": "int8", "calibration": CALIBRATION, "records": folder}
    lines = path_of(RecordStore(folder), KEY).read_text().count("\n")
    again = tune_design(network(), "fpga:zcu104", budget=None, trials=1, **options)
    assert again.best == report.best
    assert path_of(RecordStore(folder), KEY).read_text().count("\n") == lines


def test_the_page_has_picture_and_table(report):
    pytest.importorskip("matplotlib")
    page = design_page(report)
    assert page.count("<svg") == 1
    assert f'<td class="n">{report.best.cycles}</td>' in page
    assert "by default" in page


def test_the_command(tmp_path, capfd):
    pytest.importorskip("matplotlib")
    path = tmp_path / "m.onnx"
    path.write_bytes(network().SerializeToString())
    base = ["tune", str(path), "--target", "fpga:kv260", "--records", str(tmp_path / "r"), "--trials", "2"]
    assert run_command([*base, "--html", str(tmp_path / "p.html")]) == 0
    shown = capfd.readouterr()
    assert "by default" in shown.out
    assert "design 1: " in shown.err
    assert "<svg" in (tmp_path / "p.html").read_text()
    assert run_command([*base, "--json", "--html", str(tmp_path / "p.svg")]) == 0
    assert ElementTree.parse(tmp_path / "p.svg").getroot().tag == "{http://www.w3.org/2000/svg}svg"
    facts = json.loads(capfd.readouterr().out)
    assert facts["designs"] >= 4
    assert facts["best"] == facts["front"][0]
    for options, words in (
        (["--workers", "2"], "expected no --workers"),
        (["--exhaustive"], "expected no --exhaustive"),
        (["--precision", "int8"], "calibration: expected data for precision 'int8'"),
    ):
        assert run_command([*base, *options]) == 2
        assert words in capfd.readouterr().err
    assert run_command(["tune", str(path), "--calibration", str(tmp_path / "c.npz")]) == 2
    assert "expected no --calibration" in capfd.readouterr().err


def test_a_model_that_fits_no_way_says_what_is_missing(tmp_path):
    size = 1 << 19
    net = model([("Mul", "x w", "y", {})], [("x", F32, [size])], [("y", F32, [size])], w=normal(1, size)[0])
    with pytest.raises(TargetError, match=r"within 166 usable block RAMs of 18 Kib, found one that needs \d+"):
        tune_design(net, "fpga:ecp5", trials=1, records=tmp_path)


def test_a_session_ends_with_its_time(tmp_path):
    made = tune_design(network(), "fpga:kv260", budget=0.01, records=tmp_path)
    assert made.stopped == "the time is up"
    assert made.best.cycles <= made.default.cycles
    assert len(made.tried) <= 2


def test_kernels_are_not_tuned_for_hardware(tmp_path):
    with pytest.raises(UsageError, match="expected one that kernels are measured for"):
        kompilo.tune(network(), "fpga:u280")
    with pytest.raises(UsageError, match="expected one that builds hardware of whole models"):
        tune_design(network(), "cpu", trials=1, records=tmp_path)
