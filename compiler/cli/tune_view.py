"""A tuning session as a person sees it: a live table on a terminal, a few plain lines elsewhere, tables at the end."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from ..number_words import count, time_text
from ..schedule.roofline import Roofline
from ..tune.report import SessionState, TuneReport
from ..tune.summary import Row, rows
from . import console

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

# A plain line comes this often, and when the model got faster by LEAST_NEWS since the last one, but not at once.
PLAIN_EVERY_S = 10.0
LEAST_NEWS = 0.01
PLAIN_PAUSE_S = 2.0
REFRESH_PER_S = 4
# Lines of the live view besides the operators: headline, column names with their rule, the rest's line, totals, hint.
_OTHER_LINES = 8

Listener = Callable[[SessionState], None]


@dataclass(frozen=True)
class Subject:
    """What is tuned: names for the headline, the most candidates to measure, and the machine's roofline if known."""

    model: str
    target: str
    trials: int | None = None
    roofline: Roofline | None = None


@contextmanager
def session_view(subject: Subject) -> Iterator[Listener]:
    """Shows a session on stderr; yields the function that takes its snapshots."""
    screen = console.console(stderr=True)
    if sys.stderr.isatty() and not screen.is_dumb_terminal:
        with live_view(subject, screen) as listener:
            yield listener
    else:
        yield PlainView(subject, sys.stderr)


@contextmanager
def live_view(subject: Subject, screen: Console, clock: Callable[[], float] = time.monotonic) -> Iterator[Listener]:
    """A table on the terminal `screen` that is drawn again several times a second and vanishes at the end."""
    from rich.live import Live
    from rich.text import Text

    latest: tuple[SessionState, float] | None = None

    def draw() -> RenderableType:
        if latest is None:
            return Text(f"tuning {subject.model} for {subject.target}: reading the model, starting workers")
        state, came = latest
        since = clock() - came if state.running else 0.0
        return live_table(state, subject, screen.width, screen.height, since)

    def listen(state: SessionState) -> None:
        nonlocal latest
        latest = (state, clock())

    with Live(get_renderable=draw, console=screen, transient=True, refresh_per_second=REFRESH_PER_S) as live:
        live.refresh()
        yield listen


@dataclass
class PlainView:
    """Writes a line to `stream` every PLAIN_EVERY_S seconds, and sooner when there is news."""

    subject: Subject
    stream: TextIO
    _last_s: float | None = None
    _last_total: float | None = None

    def __call__(self, state: SessionState) -> None:
        if not state.tasks:
            return
        if self._last_s is None:
            self._say(f"tuning {self.subject.model} for {self.subject.target}: {count(len(state.tasks), 'operator')}")
            self._last_s = 0.0
        total = state.model_seconds()
        since = state.elapsed_s - self._last_s
        faster = total is not None and (self._last_total is None or total < (1 - LEAST_NEWS) * self._last_total)
        if not state.running or since >= PLAIN_EVERY_S or (faster and since >= PLAIN_PAUSE_S):
            self._last_s, self._last_total = state.elapsed_s, total
            self._say(f"{_clock(state)}  {totals_text(state)}; {measured_text(state, self.subject)}")

    def _say(self, line: str) -> None:
        print(line, file=self.stream, flush=True)


@dataclass(frozen=True)
class Column:
    """A column of the live table; when the terminal is narrow, those of the highest `rank` are left out first."""

    name: str
    width: int
    rank: int
    text: Callable[[Row], str]


def _best_ms(row: Row) -> str:
    task = row.task
    if task.best_seconds is not None:
        return number(task.best_seconds * 1e3)
    return "none works" if task.tried and task.failed == task.tried else ""


def _before_ms(row: Row) -> str:
    return number(None if row.task.start_seconds is None else row.task.start_seconds * 1e3)


def _won(row: Row) -> str:
    return percent(None if row.speedup is None else 1 - 1 / row.speedup)


def _speedup(row: Row) -> str:
    return "" if row.speedup is None else f"{row.speedup:.2f}x"


def _config(row: Row) -> str:
    point = row.task.best_point
    return "" if point is None else f"{point.template}({point.config})" if row.changed else "as before"


_CALLS = Column("calls", 5, 6, lambda row: str(row.task.calls))
_SHARE = Column("share", 6, 2, lambda row: percent(row.share))
_RATE = Column("GFLOP/s", 7, 4, lambda row: number(_giga(row.flops_per_second())))
_ROOFLINE = Column("roofline", 8, 3, lambda row: percent(row.of_roofline))
_TRIED = Column("tried", 8, 2, lambda row: f"{row.task.tried}/{row.task.points}")
_FAILED = Column("failed", 6, 5, lambda row: str(row.task.failed or ""))
_BEFORE, _AFTER = Column("before ms", 10, 2, _before_ms), Column("after ms", 10, 1, _best_ms)
_CONFIG = Column("config", 24, 7, _config)
LIVE_COLUMNS = (
    _CALLS, _SHARE, Column("best ms", 10, 1, _best_ms), Column("won", 6, 5, _won), _RATE, _ROOFLINE, _TRIED, _FAILED,
)  # fmt: skip
REPORT_COLUMNS = (
    _CALLS, _SHARE, _BEFORE, _AFTER, Column("speedup", 7, 1, _speedup), _RATE, _ROOFLINE, _TRIED, _FAILED, _CONFIG,
)  # fmt: skip
_WORDS_WIDTH = 26
_GAP = 3


def live_table(state: SessionState, subject: Subject, width: int, height: int, since: float = 0.0) -> RenderableType:
    """The live view for a terminal of `width` x `height` characters, `since` seconds after `state` was taken."""
    from rich.console import Group
    from rich.text import Text

    def line(text: str, style: str = "") -> Text:
        return Text(text, style=style, no_wrap=True, overflow="ellipsis")

    headline = f"{_clock(state, since)}  tuning {subject.model} for {subject.target}"
    lines: list[RenderableType] = [line(headline, "bold")]
    found = rows(state, subject.roofline)
    shown = found[: max(1, height - _OTHER_LINES)]
    if found:
        lines.append(_operator_table(shown, width))
    if len(found) > len(shown):
        lines.append(line(_rest_text(found[len(shown) :]), "dim"))
    lines.append(line(f"{totals_text(state)}; {measured_text(state, subject)}"))
    if state.running:
        lines.append(line("Ctrl-C ends the session; what was measured is kept.", "dim"))
    return Group(*lines)


def _operator_table(shown: Sequence[Row], width: int) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    chosen = fitting(LIVE_COLUMNS, width)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("operator", no_wrap=True, overflow="ellipsis", min_width=min(_WORDS_WIDTH, width))
    for column in chosen:
        table.add_column(column.name, justify="right", no_wrap=True)
    for row in shown:
        gained = row.changed and (row.speedup or 0) > 1 + LEAST_NEWS
        table.add_row(row.words, *(c.text(row) for c in chosen), style="green" if gained else "")
    return table


def fitting(columns: Sequence[Column], width: int) -> list[Column]:
    """Those of `columns` that fit beside the operator's words on a line of `width` characters."""
    chosen = list(columns)
    while chosen and _WORDS_WIDTH + sum(c.width + _GAP for c in chosen) > width:
        chosen.remove(max(reversed(chosen), key=lambda c: c.rank))
    return chosen


def _rest_text(rest: Sequence[Row]) -> str:
    share = sum(row.share or 0.0 for row in rest)
    return f"and {count(len(rest), 'more operator')}, {percent(share)} of the time"


def _clock(state: SessionState, since: float = 0.0) -> str:
    """The time that is gone and the time that is left, `since` seconds after `state` was taken."""
    elapsed = state.elapsed_s + since
    if state.budget_s is None or not state.running:
        return clock_text(elapsed)
    return f"{clock_text(elapsed)} ({clock_text(max(0.0, state.budget_s - elapsed))} left)"


def totals_text(state: SessionState) -> str:
    """The model's time before and now, or how many operators have a time."""
    before, after = state.model_seconds(start=True), state.model_seconds()
    if after is None:
        timed = sum(t.best_seconds is not None for t in state.tasks)
        return f"{timed} of {count(len(state.tasks), 'operator')} timed"
    if before is None:
        return f"model {time_text(after)}"
    return f"model {time_text(before)} -> {time_text(after)} ({before / after:.2f}x)"


def measured_text(state: SessionState, subject: Subject) -> str:
    """How many candidates were measured and failed, and why the session ended if it did."""
    of = f" of {subject.trials}" if subject.trials is not None else ""
    failed = f", {state.failed} failed" if state.failed else ""
    return f"{state.measured}{of} measured{failed}" + (f"; {state.stopped}" if state.stopped else "")


def print_report(report: TuneReport, roofline: Roofline | None) -> None:
    """The result on stdout: operators before and after, the model's time, and where the records are."""
    state = report.state
    found = rows(state, roofline)
    if found:
        chosen = fitting(REPORT_COLUMNS, console.console().width)
        names = ["operator", *(c.name if c is _CONFIG else f">{c.name}" for c in chosen)]
        where = " on the whole GPU" if report.whole_device else " on one thread"
        title = f"{report.model} on {report.target}, times of one call{where}"
        cells = [(row.words, *(c.text(row) for c in chosen)) for row in found]
        console.print_table(title, names, cells, fold=("operator", "config"))
        if state.model_seconds() is not None:
            console.say(f"{totals_text(state)}, tuned operators{where}")
    if report.skipped:
        unsized = count(len(report.skipped), "operator")
        console.say(f"not tuned: {unsized} whose sizes only a run tells; --input NAME:SHAPE fixes them")
    if not found:
        console.say(f"{report.model} has no operators that can be tuned")
        return
    console.say(f"{clock_text(state.elapsed_s)}: {measured_text(state, Subject(report.model, report.target))}")
    console.say(f"records{', with the reasons of failures' if state.failed else ''}: {report.records}")


def number(value: float | None) -> str:
    """Three significant digits without an exponent; nothing for None."""
    if value is None:
        return ""
    decimals = 2 - math.floor(math.log10(value)) if value > 0 else 0
    return f"{value:.{min(max(decimals, 0), 7)}f}"


def percent(part: float | None) -> str:
    """A part of 1 in percent; nothing for None."""
    if part is None:
        return ""
    return f"{part * 100:.1f}%" if abs(part) < 0.0995 else f"{part * 100:.0f}%"


def clock_text(seconds: float) -> str:
    """ "4:07", or "1:04:07" from an hour on."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _giga(rate: float | None) -> float | None:
    return None if rate is None else rate / 1e9
