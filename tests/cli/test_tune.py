"""`kompilo tune`: its options, what it prints and writes, and a small session from end to end."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from types import ModuleType

import pytest
from sample_states import ROOFLINE, conv, good_tasks, report, state, task
from small_models import small_model

from kompilo.compiler.cli import tune as tune_verb
from kompilo.compiler.tune.session import INTERRUPTED


class Tuner:
    """Stands in for kompilo.tune: notes its arguments, tells a snapshot, returns `result`."""

    def __init__(self):
        self.result = report(*good_tasks())
        self.asked = None

    def __call__(self, model, **options):
        options.pop("progress")(state(*good_tasks()))
        self.asked = {"model": model, **options}
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result


@pytest.fixture
def tuner(monkeypatch):
    stand_in = Tuner()
    module = ModuleType("tune")
    module.tune = stand_in
    monkeypatch.setitem(sys.modules, "kompilo.compiler.tune.tune", module)
    monkeypatch.setattr(tune_verb, "_roofline", lambda target, name: ROOFLINE)
    return stand_in


def test_a_session_ends_with_a_table(kompilo, tuner, model):
    outcome = kompilo("tune", model)
    assert outcome.code == 0
    assert "2.00x" in outcome.out
    assert "records, with the reasons of failures: /records" in outcome.out
    assert outcome.err.splitlines()[0].startswith("tuning ")


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ((), {"budget": 300.0, "trials": None, "seed": 0, "workers": None, "exhaustive": False, "records": None}),
        (("--budget", "1m30s"), {"budget": 90.0}),
        (("--trials", 6), {"budget": None, "trials": 6}),
        (("--trials", 6, "--budget", "10s"), {"budget": 10.0, "trials": 6}),
        (("--exhaustive",), {"budget": None, "exhaustive": True}),
        (("--input", "x:2x3x8x8"), {"inputs": {"x": (2, 3, 8, 8)}}),
        (("--seed", 7, "--workers", 1), {"seed": 7, "workers": 1}),
    ],
)
def test_options_reach_the_session(kompilo, tuner, model, options, asked):
    assert kompilo("tune", model, *options).code == 0
    assert {name: tuner.asked[name] for name in asked} == asked
    assert tuner.asked["model"] == str(model)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--budget", "soon"), "expected a time such as"),
        (("--budget", "0s"), "more than no time"),
        (("--trials", "0"), "invalid value for '--trials'"),
        (("--workers", "0"), "invalid value for '--workers'"),
        (("--workers", "many"), "expected a number of processes, ray, or ray:ADDRESS, found 'many'"),
        (("--input", "2x3"), "expected NAME:SHAPE"),
        (("--target", "tpu"), "unknown target 'tpu'"),
        (("--html", "missing/report.html"), "does not exist"),
    ],
)
def test_what_cannot_be_done_is_told_before_the_session(fails, tuner, model, options, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert says in fails("tune", model, *options)
    assert tuner.asked is None


def test_a_missing_model_is_told_at_once(fails, tuner):
    assert "there is no model file" in fails("tune", "nothere.onnx")


def test_json(kompilo, tuner, model):
    tuner.result = report(*good_tasks(), task(conv(3, 3), failed=2), skipped=("matmul",))
    outcome = kompilo("tune", model, "--json")
    facts = json.loads(outcome.out)
    assert (facts["model"], facts["target"], facts["stopped"]) == ("zoo:test", "cpu-test-2c", "the time is up")
    assert (facts["before_s"], facts["after_s"]) == (None, None)
    assert facts["roofline"]["levels"][-1] == {"name": "memory", "capacity": None, "bandwidth": 10e9}
    best, *_, failed = facts["operators"]
    assert best["after"] == {"template": "conv2d_direct", "config": {"tile_w": 4}, "seconds": 1e-3}
    assert best["before"]["seconds"] == 2e-3
    assert (failed["after"], failed["of_roofline"], failed["failed"]) == (None, None, 2)
    assert facts["skipped"] == ["matmul"]


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_an_interrupted_session_prints_what_it_reached(kompilo, tuner, model, options):
    tuner.result = report(*good_tasks(), stopped=INTERRUPTED)
    outcome = kompilo("tune", model, *options)
    assert outcome.code == 130
    assert "conv 3x3 64->64 56x56" in outcome.out
    assert "the same command goes on" in outcome.err


def test_an_interrupt_before_the_session(kompilo, tuner, model):
    tuner.result = KeyboardInterrupt()
    outcome = kompilo("tune", model)
    assert (outcome.code, outcome.out) == (130, "")


def test_a_model_whose_sizes_only_a_run_tells(fails, tuner, dynamic_model):
    tuner.result = replace(report(skipped=("a", "b")), model=str(dynamic_model))
    assert "for example --input x:1x3x8x8." in fails("tune", dynamic_model)


def test_a_model_without_operators_to_tune(kompilo, tuner, model):
    tuner.result = report(stopped="every config was measured")
    outcome = kompilo("tune", model)
    assert outcome.code == 0
    assert outcome.out == "zoo:test has no operators that can be tuned\n"


def test_html(kompilo, tuner, model, tmp_path):
    pytest.importorskip("matplotlib")
    outcome = kompilo("tune", model, "--html", tmp_path / "r.html")
    assert outcome.code == 0
    assert f"report: {tmp_path / 'r.html'}" in outcome.out
    assert "<svg" in (tmp_path / "r.html").read_text()


def test_html_of_an_interrupted_session(kompilo, tuner, model, tmp_path):
    pytest.importorskip("matplotlib")
    tuner.result = report(*good_tasks(), stopped=INTERRUPTED)
    assert kompilo("tune", model, "--html", tmp_path / "r.html").code == 130
    assert "interrupted" in (tmp_path / "r.html").read_text()


def test_html_without_matplotlib(fails, tuner, model, tmp_path, monkeypatch):
    monkeypatch.setattr("kompilo.compiler.html_page.find_spec", lambda name: None)
    text = fails("tune", model, "--html", tmp_path / "r.html")
    assert "needs matplotlib" in text
    assert "hint: pip install 'kompilo[report]'" in text
    assert tuner.asked is None


@pytest.fixture
def quick_roofline(monkeypatch):
    monkeypatch.setattr(tune_verb, "_roofline", lambda target, name: ROOFLINE)


def test_a_session_and_its_continuation(kompilo, quick_roofline, tmp_path):
    options = ("--input", "image:1x1x28x28", "--trials", 6, "--records", tmp_path / "records", "--workers", 1)
    command = ("tune", "zoo:mnist", *options, "--json")
    first = kompilo(*command)
    assert first.code == 0, first.err
    facts = json.loads(first.out)
    assert 1 <= facts["measured"] <= 6
    assert facts["failed"] == 0
    assert all(o["after"]["seconds"] <= o["before"]["seconds"] for o in facts["operators"])
    (file,) = (tmp_path / "records").glob("*/*.jsonl")
    assert len(file.read_text().splitlines()) == facts["measured"]
    again = json.loads(kompilo(*command).out)
    tried = sum(o["tried"] for o in again["operators"])
    assert tried == facts["measured"] + again["measured"], "nothing is measured twice"


def test_ctrl_c_in_a_session(quick_roofline, tmp_path):
    model = small_model(tmp_path / "small.onnx")
    script = (
        "import os, signal, sys\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from kompilo.compiler.cli import main, tune, tune_view\n"
        "tune._roofline = lambda target, name: None\n"
        "real = tune_view.PlainView.__call__\n"
        "def listen(self, state):\n"
        "    real(self, state)\n"
        "    if state.running and state.measured == 3: os.kill(os.getpid(), signal.SIGINT)\n"
        "tune_view.PlainView.__call__ = listen\n"
        f"main.main(['tune', {str(model)!r}, '--exhaustive', '--workers', '1', '--records', {str(tmp_path / 'r')!r}])"
    )
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 128 + signal.SIGINT, done.stderr
    assert "3 measured; interrupted" in done.stdout
    (file,) = (tmp_path / "r").glob("*/*.jsonl")
    assert len(file.read_text().splitlines()) == 3


def test_help(kompilo):
    assert "tune" in kompilo("--help").out
    outcome = kompilo("tune", "--help")
    assert outcome.code == 0
    assert all(option in outcome.out for option in ("--budget", "--trials", "--html", "--records", "--exhaustive"))


def test_another_machine_s_times_are_not_measured_here(fails, model, tmp_path):
    said = fails("tune", model, "--target", "cpu:haswell,cores=1000", "--records", tmp_path / "records")
    assert "tuning for cpu-haswell-avx2-1000c: expected that CPU, this machine's is cpu-" in said
    assert not (tmp_path / "records").exists()
