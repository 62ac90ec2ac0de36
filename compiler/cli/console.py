"""How the command line speaks: tables and results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

Progress = Callable[[str, int, int], None]

# Piped tables are read by programs and logs: rich's fallback of 80 columns would cut names short.
_PIPED_WIDTH = 200
_FOLDED_WIDTH, _COLUMN_GAP = 20, 3


def console(stderr: bool = False) -> Console:
    """A console on stdout, or on stderr; it obeys NO_COLOR and never interprets [brackets] in names."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else shutil.get_terminal_size(fallback=(_PIPED_WIDTH, 24)).columns
    return Console(file=stream, markup=False, highlight=False, emoji=False, width=width)


def note(text: str) -> None:
    """One line for the person at the terminal, on stderr, so that stdout stays clean."""
    console(stderr=True).print(plain(text), soft_wrap=True)


def say(text: str = "") -> None:
    """One line of the verb's result, on stdout."""
    console().print(plain(text), soft_wrap=True)


def plain(text: str) -> str:
    """`text` with control characters, which names of files and nodes may hold, escaped; line ends are kept."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def print_json(value: Any) -> None:
    """`value` as indented JSON, the only thing on stdout; numpy scalars and paths are converted, NaN becomes null."""
    print(json_text(value))


def json_text(value: Any) -> str:
    """`value` as strict JSON."""
    return json.dumps(_strict(value), indent=2, allow_nan=False)


def _strict(value: Any) -> Any:
    """Only what JSON knows: non-finite floats become null, numpy scalars Python numbers, anything else its text."""
    if isinstance(value, Mapping):
        return {str(k): _strict(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(v) for v in value]
    if hasattr(value, "item") and not hasattr(value, "__len__"):
        value = value.item()
    if isinstance(value, float):
        return value if value - value == 0.0 else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return str(value)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], fold: Sequence[str] = ()) -> None:
    """A table on stdout. A column name that starts with ">" aligns to the right; the columns in `fold` may wrap.

    No cell is cut: on a screen that is too narrow the lines are longer than it.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        name = column.removeprefix(">")
        table.add_column(
            name,
            justify="right" if column.startswith(">") else "left",
            no_wrap=name not in fold,
            overflow="fold",
        )
    for row in rows:
        table.add_row(*("" if cell is None else plain(str(cell)) for cell in row))
    screen = console()
    screen.width = max(screen.width, _least_width(columns, rows, fold))
    with screen.capture() as captured:
        screen.print(plain(title), style="bold", soft_wrap=True)
        screen.print(table)
    # The table pads its lines to full width, which only a terminal hides.
    print("\n".join(line.rstrip() for line in captured.get().rstrip().splitlines()), end="\n\n")


def _least_width(columns: Sequence[str], rows: Sequence[Sequence[object]], fold: Sequence[str]) -> int:
    """The width of a table whose columns are as wide as their cells, those in `fold` as narrow as one can read."""
    from rich.cells import cell_len

    total = 0
    for name, *cells in zip((c.removeprefix(">") for c in columns), *rows, strict=True):
        longest = max(cell_len("" if cell is None else str(cell)) for cell in (name, *cells))
        total += (min(longest, _FOLDED_WIDTH) if name in fold else longest) + _COLUMN_GAP
    return total


@contextmanager
def progress() -> Iterator[Progress]:
    """Reports long work on stderr: a bar on a terminal, otherwise a plain line for each stage or series of stages.

    Yields a function (stage, done, total); `total` 0 means the amount of work is unknown.
    """
    if sys.stderr.isatty():
        with _bar() as report:
            yield report
    else:
        yield _plain_lines()


@contextmanager
def _bar() -> Iterator[Progress]:
    from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Bar(*columns, console=console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=None)

        def report(stage: str, done: int, total: int) -> None:
            bar.update(task, description=stage, completed=done, total=total or None)

        yield report


def _plain_lines() -> Progress:
    """Of stages that count up to the same total, the many passes of a compilation, only the first is told."""
    last, last_done, last_total = "", 0, 0

    def report(stage: str, done: int, total: int) -> None:
        nonlocal last, last_done, last_total
        goes_on = stage == last or (total == last_total > 1 and done > last_done)
        last, last_done, last_total = stage, done, total
        if not goes_on:
            print(f"{stage} ..." if total > 1 else stage, file=sys.stderr, flush=True)

    return report
