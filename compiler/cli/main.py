"""`kompilo`: the command line. Each verb is one file beside this one; heavy imports happen inside the verbs.

Exit codes: 0 fine; 1 the check asked for failed; 2 bad usage or input; 70 a defect of Kompilo; 130 interrupted by
Ctrl-C; 141 the reader of the output went away.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from ..errors import KompiloError
from ..knobs import Knobs
from . import bench, inspect, run, targets, verify, zoo
from . import compile as compile_verb

EXIT_USAGE = 2
EXIT_DEFECT = 70
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141

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
app.command("run")(run.run_artifact)
app.command("bench")(bench.bench)
app.command("verify")(verify.verify)
app.command("inspect")(inspect.inspect)
app.command("targets")(targets.targets)
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
    sys.exit(run_command(sys.argv[1:] if argv is None else argv))


def run_command(argv: Sequence[str]) -> int:
    """Run one command line and return its exit code; errors are printed to stderr, never raised."""
    args, debug = _take_debug(bench.fill_json_value(list(argv)))
    try:
        debug = debug or Knobs.from_environment().debug
        code = _invoke(args)
        sys.stdout.flush()
        return code
    except BaseException as error:
        if isinstance(error, SystemExit):
            return error.code if isinstance(error.code, int) else EXIT_USAGE
        if debug and not isinstance(error, (typer.Exit, BrokenPipeError)):
            import traceback

            traceback.print_exception(error)
        return _report(error)


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


def _report(error: BaseException) -> int:
    """Print the one sentence that `error` deserves and return the exit code."""
    if isinstance(error, typer.Exit):
        return error.exit_code
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        print("kompilo: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    if isinstance(error, BrokenPipeError):
        # What is still buffered would raise again when the interpreter flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    if isinstance(error, KompiloError):
        return _print_error(error.message, error.hint)
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):
        return _print_usage(error)
    if isinstance(error, OSError) and error.strerror:
        where = f" {error.filename!r}" if error.filename is not None else ""
        return _print_error(f"cannot use{where}: {error.strerror[0].lower()}{error.strerror[1:]}.", None)
    summary = " ".join(str(error).split())
    _print_error(
        f"this is a defect in Kompilo: {type(error).__name__}: {summary[:300]}",
        "run the same command with --debug and report its output.",
    )
    return EXIT_DEFECT


def _print_usage(error: BaseException) -> int:
    """An error of the argument parser: its sentence and where to find help; a bare `kompilo` is no error's sentence."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "kompilo"
    text = error.format_message().strip()  # type: ignore[attr-defined]
    if type(error).__name__ == "NoArgsIsHelpError":
        return EXIT_USAGE
    return _print_error(text[:1].lower() + text[1:], f"see {path} --help.")


def _print_error(message: str, hint: str | None) -> int:
    print(f"kompilo: error: {message}", file=sys.stderr)
    if hint:
        print(f"hint: {hint}", file=sys.stderr)
    return EXIT_USAGE
