"""`kompilo`: the command line. Each verb is one file beside this one; heavy imports happen inside the verbs.

Exit codes: 0 fine; 1 the check asked for failed; 2 bad usage or input; 70 a defect of Kompilo; 129 the terminal was
closed; 130 interrupted by Ctrl-C; 141 the reader of the output went away; 143 terminated.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import Annotated, NoReturn

import typer

from ..errors import KompiloError
from ..knobs import Knobs
from . import bench, console, devices, inspect, plan, records, run, targets, train_cost_model, tune, verify, zoo
from . import compile as compile_verb

EXIT_USAGE = 2
EXIT_DEFECT = 70
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141

# What asked this process to end. On its way through TVM's C++ frames KeyboardInterrupt may become another exception.
_signals: list[int] = []

app = typer.Typer(
    name="kompilo",
    help="Compile ONNX models into fast, verified code; run, measure and inspect the result.",
    epilog="Exit codes: 0 fine; 1 the check asked for failed; 2 bad usage or input; 70 a defect; 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
app.command("compile")(compile_verb.compile_model)
app.command("tune")(tune.tune)
app.command("run")(run.run_artifact)
app.command("bench")(bench.bench)
app.command("verify")(verify.verify)
app.command("inspect")(inspect.inspect)
app.command("plan")(plan.plan)
app.command("targets")(targets.targets)
app.command("devices")(devices.devices)
app.add_typer(records.app, name="records")
app.command("train-cost-model")(train_cost_model.train_cost_model)
app.add_typer(zoo.app, name="zoo")


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"kompilo {version('kompilo')}")
        raise typer.Exit()


@app.callback()
def _global_options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; may stand anywhere on the line.")
    ] = False,
) -> None:
    """Compile ONNX models into fast, verified code; run, measure and inspect the result."""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line on `argv` (default: the process's arguments) and exit with its code."""
    _ready_streams()
    _unwind_on_signals()
    sys.exit(run_command(sys.argv[1:] if argv is None else argv))


def run_command(argv: Sequence[str]) -> int:
    """Run one command line and return its exit code; errors are printed to stderr, never raised.

    With --json an error is also the one JSON document on stdout: {"error": {"message", "hint", "exit_code"}}.
    """
    args, debug = _take_debug(bench.fill_json_value(list(argv)))
    try:
        debug = debug or Knobs.from_environment().debug
        code = _invoke(args)
        sys.stdout.flush()
        return code
    except BaseException as error:
        if isinstance(error, SystemExit) and not _signals:
            return error.code if isinstance(error.code, int) else EXIT_USAGE
        if debug and not isinstance(error, (typer.Exit, BrokenPipeError)):
            import traceback

            traceback.print_exception(error)
        return _report(error, _wants_json(args))


def _invoke(args: list[str]) -> int:
    command = typer.main.get_command(app)
    with command.make_context("kompilo", args) as context:
        command.invoke(context)
    return 0


def _take_debug(args: list[str]) -> tuple[list[str], bool]:
    """Removes `--debug` wherever it stands before a lone `--`."""
    end = args.index("--") if "--" in args else len(args)
    head = [a for a in args[:end] if a != "--debug"]
    return head + args[end:], len(head) < end


def _wants_json(args: Sequence[str]) -> bool:
    """Whether stdout is to hold a JSON document: --json of all verbs, `--json -` of bench."""
    place = args.index("--json") if "--json" in args else None
    return place is not None and (args[0] != "bench" or args[place + 1 : place + 2] == ["-"])


def _ready_streams() -> None:
    """Output that is closed is dropped; characters that a terminal's encoding lacks are escaped, not a defect."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - open as long as the process
        getattr(sys, name).reconfigure(errors="backslashreplace")


def _unwind_on_signals() -> None:
    """Has SIGTERM and SIGHUP unwind as Ctrl-C does, so that temporary folders and worker processes go with us."""

    def leave(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)  # a second one does not wait for the unwinding
        _signals.append(number)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):  # nohup has SIGHUP ignored
            signal.signal(number, leave)


def _report(error: BaseException, as_json: bool) -> int:
    """Print the one sentence that `error` deserves and return the exit code."""
    if _signals and _signals[0] != signal.SIGINT:
        return 128 + _signals[0]
    if isinstance(error, typer.Exit):
        return error.exit_code
    if _signals or isinstance(error, (KeyboardInterrupt, typer.Abort)):
        print("kompilo: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    if isinstance(error, BrokenPipeError):
        # What is still buffered would raise again when the interpreter flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    if type(error).__name__ == "NoArgsIsHelpError":  # it has shown the help already
        return EXIT_USAGE
    message, hint, code = _describe(error)
    print(f"kompilo: error: {message}", file=sys.stderr)
    if hint:
        print(f"hint: {hint}", file=sys.stderr)
    if as_json:
        with suppress(OSError):  # stdout itself may be what failed
            console.print_json({"error": {"message": message, "hint": hint, "exit_code": code}})
            sys.stdout.flush()
    return code


def _as_option(hint: str | None) -> str | None:
    """Hints of the loader speak of its argument, which is an option here."""
    from ..runtime.choice import CPU_INSTEAD

    return "--device cpu runs it on the CPU." if hint == CPU_INSTEAD else hint


def _describe(error: BaseException) -> tuple[str, str | None, int]:
    """The sentence for `error`, a hint or None, and the exit code."""
    if isinstance(error, KompiloError):
        return error.message, _as_option(error.hint), EXIT_USAGE
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # of the argument parser
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "kompilo"
        text = error.format_message().strip()
        return text[:1].lower() + text[1:], f"see {path} --help.", EXIT_USAGE
    if isinstance(error, OSError) and error.strerror:
        where = f"read or write {error.filename!r}" if error.filename is not None else "write the output"
        return f"cannot {where}: {error.strerror[0].lower()}{error.strerror[1:]}.", None, EXIT_USAGE
    if isinstance(error, MemoryError):
        return "there is not enough memory.", None, EXIT_USAGE
    summary = " ".join(str(error).split())[:300]
    message = f"this is a defect in Kompilo: {type(error).__name__}: {summary}"
    return message, "run the same command with --debug and report its output.", EXIT_DEFECT
