"""The command line as a whole: exit codes, one-sentence errors, --debug, interrupts, pipes."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from onnx import TensorProto, helper
from small_models import write_model

from kompilo.compiler.cli import main as cli
from kompilo.compiler.cli import targets as targets_verb

VERBS = ("compile", "run", "bench", "verify", "inspect", "records", "targets", "zoo")


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
        (PermissionError(13, "Permission denied", "out.kpo"), 2, "cannot read or write 'out.kpo': permission denied"),
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


@pytest.mark.parametrize(
    ("number", "code", "says"),
    [(signal.SIGINT, 130, "kompilo: interrupted\n"), (signal.SIGTERM, 143, ""), (signal.SIGHUP, 129, "")],
)
def test_signals_end_the_work_and_leave_nothing(tmp_path, number, code, says):
    # A job started in the background, or under nohup, inherits ignored signals; a person's shell ignores none.
    script = (
        "import signal, tempfile, time\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        "from kompilo.compiler.cli import targets, main\n"
        "def work(kind):\n"
        "    with tempfile.TemporaryDirectory():\n"
        "        print('started', flush=True)\n"
        "        time.sleep(60)\n"
        "targets._facts = work\nmain.main(['targets'])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert process.stdout.readline() == "started\n"
    time.sleep(0.1)
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert process.returncode == code
    assert err == says
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_while_the_command_line_is_imported():
    script = (
        "import os, signal, sys\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class Interrupted:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'typer': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupted())\nfrom kompilo.__main__ import main\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_that_comes_out_of_cpp_as_another_exception(number, code):
    script = (
        "import os, signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from kompilo.compiler.cli import targets, main\n"
        "def work(kind):\n"
        f"    try: os.kill(os.getpid(), {int(number)})\n"
        "    except BaseException as error: raise RuntimeError(str(error))\n"
        "targets._facts = work\nmain.main(['targets'])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == code
    assert "defect" not in done.stderr


@pytest.mark.parametrize(("redirect", "code"), [(">&-", 0), ("2>&-", 0), (">/dev/full", 2)])
def test_streams_that_take_nothing(redirect, code):
    command = f"exec {sys.executable} -m kompilo zoo list {redirect}"
    done = subprocess.run(command, shell=True, executable="/bin/bash", capture_output=True, text=True)
    assert done.returncode == code
    wanted = "kompilo: error: cannot write the output: no space left on device.\n" if code else ""
    assert done.stderr == wanted


def test_file_names_that_are_no_utf8(model, tmp_path):
    folder = os.fsencode(tmp_path)
    shutil.copy(model, folder + b"/m\xff.onnx")
    for args in ([b"compile", b"m\xff.onnx"], [b"inspect", b"m\xff.kpo"], [b"run", b"m\xff.kpo", b"--json"]):
        done = subprocess.run([os.fsencode(sys.executable), b"-m", b"kompilo", *args], capture_output=True, cwd=folder)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_names_that_the_terminal_cannot_write(tmp_path, encoding):
    path = write_model(
        tmp_path / "m.onnx",
        [helper.make_node("Relu", ["größe_大"], ["y"])],
        [("größe_大", TensorProto.FLOAT, [2])],
        [("y", TensorProto.FLOAT, [2])],
    )
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    command = [sys.executable, "-m", "kompilo", "inspect", str(path)]
    done = subprocess.run(command, capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert b"\\u5927" in done.stdout


@pytest.mark.parametrize(
    "args",
    [
        ["compile", "nothere.onnx", "--json"],
        ["run", "nothere.kpo", "--json"],
        ["inspect", "nothere.kpo", "--json"],
        ["inspect", "nothere.onnx", "--ir", "import", "--json"],
        ["verify", "--json", "nothere.kpo", "nothere.onnx"],
        ["bench", "nothere.onnx", "--json"],
        ["compile", "--json"],
        ["zoo", "list", "--json", "--nonsense"],
    ],
)
def test_an_error_is_a_json_document_too(kompilo, args):
    outcome = kompilo(*args)
    error = json.loads(outcome.out)["error"]
    assert (outcome.code, error["exit_code"]) == (2, 2)
    assert f"kompilo: error: {error['message']}\n" in outcome.err


def test_bench_is_a_verb_only_where_verbs_stand(kompilo):
    error = json.loads(kompilo("inspect", "bench", "--json").out)["error"]
    assert error["message"] == "there is no model file 'bench'."


def test_a_bad_environment_variable_is_named(fails, monkeypatch):
    monkeypatch.setenv("KOMPILO_DEBUG", "perhaps")
    assert "KOMPILO_DEBUG" in fails("targets")
