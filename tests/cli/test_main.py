"""The command line as a whole: exit codes, one-sentence errors, --debug, interrupts, pipes."""

import re
import signal
import subprocess
import sys
import time

import pytest

from kompilo.compiler.cli import main as cli
from kompilo.compiler.cli import targets as targets_verb

VERBS = ("compile", "run", "bench", "verify", "inspect", "targets", "zoo")


def test_help_names_every_verb(kompilo):
    outcome = kompilo("--help")
    assert outcome.code == 0
    assert all(verb in outcome.out for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(kompilo, verb):
    outcome = kompilo(verb, "--help")
    assert outcome.code == 0
    assert f"kompilo {verb}" in outcome.out


def test_help_imports_no_compiler():
    code = (
        "import sys; from kompilo.compiler.cli.main import run_command; run_command(['--help'])\n"
        "sys.exit(' '.join({'tvm', 'numpy', 'onnx', 'onnxruntime', 'openvino'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_version(kompilo):
    outcome = kompilo("--version")
    assert outcome.code == 0
    assert re.fullmatch(r"kompilo \d+\.\d+\.\d+\S*\n", outcome.out)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["bogus"], "no such command 'bogus'"),
        (["compile"], "missing argument 'MODEL'"),
        (["compile", "a.onnx", "--frobnicate"], "no such option: --frobnicate"),
        (["run", "a.kpo", "--repeat", "0"], "invalid value for '--repeat'"),
        (["bench", "a.onnx", "--threads", "two"], "expected --threads N or N,M with positive numbers, found 'two'"),
        (["bench", "a.onnx", "--threads", "100000"], "usable cores"),
        (["bench", "a.onnx", "--against", "torchpond"], "unknown runtime 'torchpond'"),
        (["compile", "a.onnx", "--input", "1x3"], "expected NAME:SHAPE, found '1x3'"),
        (["compile", "a.onnx", "--input", "x:1xé!"], "expected dimensions that are sizes or names"),
        (["compile", "nothere.onnx"], "there is no model file 'nothere.onnx'"),
        (["compile", "zoo:resnet5"], "expected one of resnet50"),
        (["zoo", "get", "resnet5"], "expected one of resnet50"),
        (["run", "nothere.kpo"], "nothere.kpo"),
        (["run", "a.onnx"], "expected a compiled artifact"),
        (["inspect", "nothere.onnx"], "there is no model file"),
        (["verify", "nothere.kpo", "nothere.onnx"], "there is no model file"),
    ],
)
def test_bad_usage_is_one_sentence(fails, tmp_path, monkeypatch, args, says):
    monkeypatch.chdir(tmp_path)
    assert says in fails(*args)


def test_a_bare_command_shows_help(kompilo):
    outcome = kompilo()
    assert outcome.code == 2
    assert "compile" in outcome.out + outcome.err
    assert "error" not in outcome.err


def test_debug_shows_the_traceback_wherever_it_stands(kompilo):
    for args in (["--debug", "compile", "nothere.onnx"], ["compile", "nothere.onnx", "--debug"]):
        outcome = kompilo(*args)
        assert outcome.code == 2
        assert "Traceback" in outcome.err


@pytest.mark.parametrize(
    ("raised", "code", "says"),
    [
        (KeyboardInterrupt(), 130, "kompilo: interrupted\n"),
        (RuntimeError("left\nright"), 70, "defect in Kompilo: RuntimeError: left right"),
        (PermissionError(13, "Permission denied", "out.kpo"), 2, "cannot use 'out.kpo': permission denied"),
    ],
)
def test_what_a_verb_raises_becomes_one_line_and_a_code(kompilo, monkeypatch, raised, code, says):
    def explode(kind):
        raise raised

    monkeypatch.setattr(targets_verb, "_facts", explode)
    outcome = kompilo("targets")
    assert outcome.code == code
    assert says in outcome.err
    assert "Traceback" not in outcome.err


def test_a_broken_pipe_is_quiet():
    done = subprocess.run(
        f"set -o pipefail; {sys.executable} -m kompilo zoo list | true; echo ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    assert done.stdout.strip() in ("0", str(cli.EXIT_BROKEN_PIPE))


def test_an_interrupt_ends_with_130(tmp_path):
    # A job started in the background inherits an ignored SIGINT; a person's shell does not ignore it.
    code = (
        "import signal, time\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from kompilo.compiler.cli import targets, main\n"
        "targets._facts = lambda kind: (print('started', flush=True), time.sleep(60))\nmain.main(['targets'])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    assert process.stdout.readline() == "started\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err == "kompilo: interrupted\n"


def test_a_bad_environment_variable_is_named(fails, monkeypatch):
    monkeypatch.setenv("KOMPILO_DEBUG", "perhaps")
    assert "KOMPILO_DEBUG" in fails("targets")
