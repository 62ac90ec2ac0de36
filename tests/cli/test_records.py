"""`kompilo records`, and the records that `compile` uses and `inspect` shows."""

import gzip
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from kompilo.compiler.schedule.target import find_target
from kompilo.compiler.tune.record import Measurement, Record
from kompilo.compiler.tune.store import RecordStore
from kompilo.compiler.tune.task import extract_tasks

from record_support import KEY, matmul, record


@pytest.fixture
def user(tmp_path, monkeypatch) -> RecordStore:
    """The user's records: none yet."""
    monkeypatch.setenv("KOMPILO_RECORDS", str(tmp_path / "user"))
    return RecordStore(tmp_path / "user")


@pytest.fixture(scope="session")
def tuned(model) -> tuple[Record, ...]:
    """Made-up records for every operator of the small model on this machine: the last point is the fastest by far."""
    target = find_target("cpu")
    return tuple(
        Record(task.op, target.spec.key, point, Measurement("ok", 100 / 2.2**k), "2026-11-22T06:00:00Z", "0.1.0")
        for task in extract_tasks(model, target).tasks
        for k, point in enumerate(task.points)
    )


def write(store: RecordStore, *lines: str, name: str = "tuned.jsonl", key: str = KEY) -> Path:
    path = store.target_folder(key) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines))
    return path


@pytest.mark.parametrize("way", ["--records", "KOMPILO_RECORDS"])
def test_compile_uses_records_and_inspect_names_them(kompilo, user, tuned, model, tmp_path, way):
    store = user if way == "KOMPILO_RECORDS" else RecordStore(tmp_path / "more")
    store.extend(tuned)
    options = () if store is user else ("--records", store.folder)
    outcome = kompilo("compile", model, "-o", tmp_path / "o.kpo", *options)
    assert outcome.code == 0, outcome
    place = "user" if store is user else "more"
    assert f"chosen by tuning records: {place}:{tuned[0].target}/tuned.jsonl" in outcome.out
    facts = json.loads(kompilo("inspect", tmp_path / "o.kpo", "--json").out)
    used = {o["spec"]: o for o in facts["targets"][0]["operators"] if o["source"].startswith("record")}
    assert set(used) == {str(r.op) for r in tuned}
    for r in {str(r.op): r for r in tuned}.values():
        operator = used[str(r.op)]
        tried = sum(str(other.op) == str(r.op) for other in tuned)
        assert (operator["template"], operator["config"]) == (r.point.template, str(r.point.config))
        assert operator["source"].startswith("record of 2026-11-22: ")
        assert operator["source"].endswith(f", {tried} tried")
    records = facts["provenance"]["records"]
    files = [f"{place}:{tuned[0].target}/tuned.jsonl"]
    assert records == {"used": len(used), "files": files, "predicted": 0, "unreadable": 0}
    assert "record of 2026-11-22" in kompilo("inspect", tmp_path / "o.kpo").out
    assert kompilo("verify", tmp_path / "o.kpo", model).code == 0


def test_no_records(kompilo, user, tuned, model, tmp_path):
    user.extend(tuned)
    assert kompilo("compile", model, "-o", tmp_path / "o.kpo", "--no-records").code == 0
    facts = json.loads(kompilo("inspect", tmp_path / "o.kpo", "--json").out)
    assert {o["source"] for o in facts["targets"][0]["operators"]} <= {"default", "rule"}
    assert facts["provenance"]["records"] is None


def test_broken_records_are_mentioned_and_harm_nothing(kompilo, user, tuned, model, tmp_path):
    write(user, "{broken", *(r.to_line() for r in tuned), key=tuned[0].target)
    outcome = kompilo("compile", model, "-o", tmp_path / "o.kpo")
    assert outcome.code == 0
    assert "1 line of records could not be read" in outcome.err
    assert "chosen by tuning records" in outcome.out


def test_compile_with_folders_that_do_not_fit(fails, user, model, tmp_path):
    out = ("-o", tmp_path / "o.kpo")
    assert "does not exist" in fails("compile", model, *out, "--records", tmp_path / "none")
    assert "is not a folder" in fails("compile", model, *out, "--records", model)
    assert "found both" in fails("compile", model, *out, "--records", tmp_path, "--no-records")


def test_list(kompilo, user, tmp_path):
    write(user, record(1).to_line(), "{", record(2, None).to_line())
    (tmp_path / "more").mkdir()
    RecordStore(tmp_path / "more").append(record(1, op=matmul(9), target="cpu-other-2c"))
    outcome = kompilo("records", "list", "--records", tmp_path / "more")
    assert outcome.code == 0
    assert "tuned.jsonl:2: not JSON" in outcome.err
    facts = json.loads(kompilo("records", "list", "--records", tmp_path / "more", "--json").out)
    assert [p["place"] for p in facts["places"]] == ["more", "user", "installed"]
    more, mine = facts["files"][:2]
    assert (more["target"], more["records"], more["failed"], more["operators"]) == ("cpu-other-2c", 1, 0, 1)
    assert (mine["target"], mine["records"], mine["failed"], mine["unreadable"]) == (KEY, 2, 1, 1)
    only = json.loads(kompilo("records", "list", "--records", tmp_path / "more", "-t", "cpu-other-2c", "--json").out)
    assert {f["target"] for f in only["files"]} == {"cpu-other-2c"}


def test_show(kompilo, user, tuned):
    """By their whole text, operators are other ones than those that come with Kompilo for some machines."""
    user.extend(tuned)
    convolution, product = (next(str(r.op) for r in tuned if r.op.kind == kind) for kind in ("conv2d", "matmul"))
    outcome = kompilo("records", "show")
    assert "conv2d" in outcome.out
    assert "matmul" in outcome.out
    conv = kompilo("records", "show", convolution).out
    assert "GFLOP/s" in conv
    assert "matmul_tile" not in conv
    facts = json.loads(kompilo("records", "show", product, "--json").out)
    (operator,) = facts["operators"]
    seconds = [p["seconds"] for p in operator["points"]]
    assert seconds == sorted(seconds)
    assert len(seconds) == sum(r.op.kind == "matmul" for r in tuned)
    user.append(replace(tuned[0], measurement=Measurement("crashed", reason="signal 11"), created="2026-12-01"))
    assert "signal 11" in kompilo("records", "show", convolution).out
    assert "no records of" in kompilo("records", "show", "nothing of this").out


def test_out_and_in_again(kompilo, user, tmp_path):
    user.extend([record(k) for k in range(20)] + [record(1, target="cpu-other-2c")])
    for name in ("all.jsonl", "all.jsonl.gz"):
        assert "21 records of cpu-other-2c, cpu-test-2c" in kompilo("records", "export", tmp_path / name).out
        other = tmp_path / f"from {name}"
        assert "21 records added, 0" in kompilo("records", "import", tmp_path / name, "--records", other).out
        assert "0 records added, 21" in kompilo("records", "import", tmp_path / name, "--records", other).out
        assert RecordStore(other).read(KEY) == user.read(KEY)
        assert "0 records added, 21" in kompilo("records", "merge", other).out
    content = (tmp_path / "all.jsonl.gz").read_bytes()
    assert gzip.decompress(content) == (tmp_path / "all.jsonl").read_bytes()
    kompilo("records", "export", tmp_path / "one.jsonl", "-t", "cpu-other-2c")
    assert len((tmp_path / "one.jsonl").read_text().splitlines()) == 1
    kompilo("records", "export", tmp_path / "all.jsonl.gz")
    assert (tmp_path / "all.jsonl.gz").read_bytes() == content


def test_what_was_imported_counts_as_another_clock_s(kompilo, user, tuned, tmp_path):
    """Everything takes 1.3 times as long there; a config that was timed only there is shown with the time for here."""
    target = tuned[0].target
    mine = [r for r in tuned if r.op.kind == "matmul"]
    slower = [replace(r, measurement=replace(r.measurement, seconds=1.3 * r.measurement.seconds)) for r in mine]
    user.extend(mine[:-1])
    (tmp_path / "in.jsonl").write_text("".join(r.to_line() + "\n" for r in slower))
    assert f"{len(mine)} records added, 0" in kompilo("records", "import", tmp_path / "in.jsonl").out
    (operator,) = json.loads(kompilo("records", "show", str(mine[0].op), "--json").out)["operators"]
    seconds = [p["seconds"] for p in operator["points"]]
    assert seconds == pytest.approx(sorted(r.measurement.seconds for r in mine))
    files = {p["file"] for p in operator["points"]}
    assert files == {f"user:{target}/tuned.jsonl", f"user:{target}/imported.jsonl"}
    listed = json.loads(kompilo("records", "list", "--json").out)["files"]
    assert [(Path(f["file"]).name, f["records"]) for f in listed if f["place"] == "user"] == [
        ("imported.jsonl", len(mine)),
        ("tuned.jsonl", len(mine) - 1),
    ]
    assert f"{2 * len(mine) - 1} records of" in kompilo("records", "export", tmp_path / "out.jsonl").out
    assert f"{2 * len(mine) - 1} kept, 0 dropped" in kompilo("records", "prune").out


def test_import_takes_what_is_whole(kompilo, user, tmp_path):
    bad = ["{", record(1).to_line().replace('"schema":1', '"schema":7'), record(1, target="../up").to_line()]
    (tmp_path / "in.jsonl").write_text("\n".join([*bad, record(2).to_line()]))
    outcome = kompilo("records", "import", tmp_path / "in.jsonl")
    assert "1 record added" in outcome.out
    for says in ("in.jsonl:1: not JSON", "in.jsonl:2: expected schema 1, found 7", "in.jsonl:3: expected the key"):
        assert says in outcome.err
    assert user.targets() == [KEY]


def test_merge_folders(kompilo, user, tmp_path):
    for name, tiles in (("a", (1, 2)), ("b", (2, 3))):
        RecordStore(tmp_path / name).extend(record(k) for k in tiles)
    assert "3 records added" in kompilo("records", "merge", tmp_path / "a", tmp_path / "b").out
    assert [r.point.config.int("tile") for r in user.read(KEY)[0]] == [1, 2, 3]
    facts = json.loads(kompilo("records", "merge", tmp_path / "a", "--json").out)
    assert facts == {"added": 0, "present": 2, "problems": []}


def test_prune(kompilo, user, tuned):
    key = tuned[0].target
    newer = tuned[0].to_line().replace('"schema":1', '"schema":2')
    old = replace(tuned[0], point=replace(tuned[0].point, version=999))
    failed = replace(tuned[1], measurement=Measurement("timed_out", reason="10 s"))
    lines = [newer, "{", tuned[0].to_line(), tuned[0].to_line(), old.to_line(), failed.to_line()]
    path = write(user, *lines, key=key)
    before = path.read_bytes()
    assert "3 kept, 3 would be dropped" in kompilo("records", "prune", "--dry-run").out
    assert path.read_bytes() == before
    facts = json.loads(kompilo("records", "prune", "--json").out)[0]
    reasons = {"broken": 1, "repeated": 1, "of a template or config that is no longer offered": 1}
    assert facts == {"target": key, "kept": 3, "dropped": reasons, "packed": 0}
    assert path.read_text().splitlines() == [newer, tuned[0].to_line(), failed.to_line()]
    assert "1 failed" in kompilo("records", "prune", "--failed").out
    assert "2 kept, 0 dropped" in kompilo("records", "prune").out


def test_a_file_of_which_nothing_is_left_goes(kompilo, user):
    path = write(user, "{")
    write(user, record(1).to_line(), name="other.jsonl")
    kompilo("records", "prune")
    assert not path.exists()
    assert "there are no records" in kompilo("records", "prune").err


def test_folders_with_names_of_files_are_left_alone(kompilo, user):
    path = write(user, record(1).to_line(), "{")
    odd = path.with_name("odd.jsonl")
    odd.mkdir()
    assert "(1 of a template or config that is no longer offered, 1 broken)" in kompilo("records", "prune").out
    assert odd.is_dir()


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("import", "none.jsonl"), "cannot read records from 'none.jsonl': no such file"),
        (("import", "/dev/zero"), "it is a device"),
        (("import", "folder"), "found the folder 'folder'"),
        (("merge", "none"), "expected a folder of records, found 'none'"),
        (("merge", "folder"), "there are no records in 'folder'"),
        (("export", "out.jsonl"), "there are no records in"),
        (("export", "out.txt"), "expected a file name ending in .jsonl or .jsonl.gz, found 'out.txt'"),
        (("export", "none/out.jsonl"), "does not exist"),
        (("prune",), "there are no records in"),
        (("prune", "--target", "gone"), "expected a target, or the key of one with records, found 'gone'"),
        (("prune", "--target", "cpu"), "there are no records of cpu-"),
        (("list", "--target", "gone"), "found 'gone'"),
        (("import", "file"), "there are no records in 'file', it is empty"),
        (("import", "words"), "there are no records in 'words': not JSON"),
        (("list", "--records", "none"), "the folder 'none' does not exist"),
        (("show", "--target", "cpu:abacus"), "'abacus'"),
        (("show", "--target", "../up"), "expected a target, or the key of one with records"),
        (("import", "file", "--records", "file"), "'file' is not a folder"),
    ],
)
def test_what_is_refused(fails, user, tmp_path, monkeypatch, args, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "words").write_text("not a record\n")
    assert says in fails("records", *args)


def test_a_full_disk_is_one_sentence(fails, user, tmp_path):
    path = write(user, "")
    path.unlink()
    (path.parent / "imported.jsonl").symlink_to("/dev/full")
    (tmp_path / "in.jsonl").write_text(record(1).to_line())
    assert "no space left on device" in fails("records", "import", tmp_path / "in.jsonl")


def test_help_imports_no_compiler():
    code = (
        "import sys; from kompilo.compiler.cli.main import run_command; run_command(['records', '--help'])\n"
        "sys.exit(' '.join({'tvm', 'numpy', 'onnx', 'filelock'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_folder_without_a_name_is_not_the_current_one(fails, user):
    for verb in (("records", "list"), ("records", "prune"), ("train-cost-model",), ("tune", "m.onnx")):
        assert "expected the name of a folder" in fails(*verb, "--records=")


def test_the_user_s_folder_must_be_one(fails, model, tmp_path, monkeypatch):
    monkeypatch.setenv("KOMPILO_RECORDS", str(model))
    for verb in (("records", "list"), ("compile", model, "-o", tmp_path / "o.kpo")):
        assert "KOMPILO_RECORDS: expected a folder, found" in fails(*verb)
