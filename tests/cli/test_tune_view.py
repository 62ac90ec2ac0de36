"""What a tuning session looks like: live on a terminal, line by line elsewhere, and at its end."""

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console
from sample_states import ROOFLINE, conv, good_tasks, report, state, task

from kompilo.compiler.cli import tune_view
from kompilo.compiler.cli.tune_view import LIVE_COLUMNS, PlainView, Subject, fitting, live_table, print_report

SUBJECT = Subject("zoo:test", "cpu-test", roofline=ROOFLINE)
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def terminal(width=120, height=30, **options) -> Console:
    return Console(file=io.StringIO(), width=width, height=height, force_terminal=True, **options)


def drawn(snapshot, width=120, height=30, subject=SUBJECT, since=0.0, **options) -> str:
    """The live view as it stands on a terminal."""
    screen = terminal(width, height, **options)
    screen.print(live_table(snapshot, subject, width, height, since))
    return screen.file.getvalue()


def plain(text: str) -> list[str]:
    return [line.rstrip() for line in ESCAPES.sub("", text).splitlines()]


def test_the_table_shows_every_operator():
    lines = plain(drawn(state(*good_tasks())))
    assert lines[0] == "0:30 (0:30 left)  tuning zoo:test for cpu-test"
    cells = [line.split() for line in lines[3:6]]
    assert " ".join(cells[0]) == "conv 3x3 64->64 56x56 2 65% 1.00 50% 231 154% 4/8"
    assert " ".join(cells[1]) == "conv 1x1 64->256 56x56 1 32% 1.00 0.0% 104 69% 3/8 1"
    assert "model 5.1 ms -> 3.1 ms (1.65x); 8 measured, 1 failed" in lines
    assert "Ctrl-C" in lines[-1]


def test_before_all_operators_were_measured():
    text = drawn(state(*good_tasks(), task(conv(8, 8))))
    assert "3 of 4 operators timed; 8 measured, 1 failed" in plain(text)


def test_an_operator_of_which_nothing_works():
    lines = plain(drawn(state(task(conv(8, 8), failed=8))))
    assert any("none works" in line and "8/8" in line for line in lines)
    assert "0 of 1 operator timed; 8 measured, 8 failed" in lines


def test_a_session_without_operators():
    assert "0 of 0 operators timed; 0 measured" in plain(drawn(state()))


def test_time_goes_on_between_snapshots():
    assert plain(drawn(state(*good_tasks()), since=12.0))[0].startswith("0:42 (0:18 left)")
    assert plain(drawn(state(*good_tasks()), since=99.0))[0].startswith("2:09 (0:00 left)")
    assert plain(drawn(state(*good_tasks(), budget_s=None)))[0].startswith("0:30  tuning")


def test_trials_are_counted():
    assert "8 of 64 measured" in drawn(state(*good_tasks()), subject=replace(SUBJECT, trials=64))


@pytest.mark.parametrize("width", [1, 10, 25, 40, 60, 80, 100, 200])
@pytest.mark.parametrize("height", [1, 5, 9, 40])
def test_it_fits_the_terminal(width, height):
    many = [task(conv(8, 8 + k), (1e-3, 2e-3)) for k in range(50)]
    lines = plain(drawn(state(*many), width, height))
    assert max(map(len, lines)) <= width
    assert len(lines) <= max(height, 8)
    if width >= 60 and height < 50:
        assert any(re.match(r"and \d+ more operators, [\d.]+% of the time", line) for line in lines)


def test_narrow_terminals_keep_the_time():
    assert [c.name for c in fitting(LIVE_COLUMNS, 42)] == ["best ms"]
    assert fitting(LIVE_COLUMNS, 10) == []
    assert fitting(LIVE_COLUMNS, 200) == list(LIVE_COLUMNS)


def test_no_color_has_no_colours(monkeypatch):
    coloured = "\x1b[32m"
    assert coloured in drawn(state(*good_tasks()))
    monkeypatch.setenv("NO_COLOR", "1")
    assert coloured not in drawn(state(*good_tasks()))


def test_names_are_not_markup():
    assert "[red]x[/red].onnx" in drawn(state(), subject=replace(SUBJECT, model="[red]x[/red].onnx"))


def test_the_live_view_draws_and_vanishes():
    screen = terminal()
    with tune_view.live_view(SUBJECT, screen) as listen:
        assert "reading the model" in screen.file.getvalue()
        listen(state(*good_tasks()))
    text = screen.file.getvalue()
    assert "depthwise" in text
    assert text.count("\x1b[1A\x1b[2K") >= 5, "the lines are cleared at the end"


def test_the_cursor_comes_back_after_an_interrupt():
    screen = terminal()

    def interrupted():
        with tune_view.live_view(SUBJECT, screen):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert screen.file.getvalue().rindex("\x1b[?25h") > screen.file.getvalue().rindex("\x1b[?25l")


class Stream(io.StringIO):
    """What stderr may be."""

    def __init__(self, terminal: bool):
        super().__init__()
        self.isatty = lambda: terminal


@pytest.mark.parametrize(("is_terminal", "kind"), [(True, "xterm"), (True, "dumb"), (False, "xterm")])
def test_lines_where_there_is_no_terminal(monkeypatch, is_terminal, kind):
    monkeypatch.setattr("sys.stderr", Stream(is_terminal))
    monkeypatch.setenv("TERM", kind)
    with tune_view.session_view(SUBJECT) as listen:
        assert isinstance(listen, PlainView) == (not is_terminal or kind == "dumb")


def lines_of(*snapshots) -> list[str]:
    stream = io.StringIO()
    view = PlainView(SUBJECT, stream)
    for snapshot in snapshots:
        view(snapshot)
    return stream.getvalue().splitlines()


def test_lines_come_each_ten_seconds_and_with_news():
    slow, fast = task(conv(8, 8), (2e-3,)), task(conv(8, 8), (2e-3, 1e-3))
    almost = task(conv(8, 8), (2e-3, 1.99e-3))
    told = [(0.5, slow), (3.0, slow), (4.0, almost), (4.5, fast), (5.5, fast), (9.0, fast), (15.4, fast), (15.6, fast)]
    lines = lines_of(*(state(t, elapsed_s=when) for when, t in told))
    assert lines[0] == "tuning zoo:test for cpu-test: 1 operator"
    assert [line.split("  ")[0] for line in lines[1:]] == ["0:03 (0:57 left)", "0:05 (0:54 left)", "0:15 (0:44 left)"]
    assert lines[2].endswith("model 2 ms -> 1 ms (2.00x); 2 measured")


def test_a_million_snapshots_make_few_lines():
    lines = lines_of(*(state(*good_tasks(), elapsed_s=k / 10, budget_s=None) for k in range(600)))
    assert len(lines) <= 8


def test_the_last_line_says_why():
    lines = lines_of(state(*good_tasks(), running=False, stopped="interrupted", elapsed_s=1.0))
    assert lines[-1] == "0:01  model 5.1 ms -> 3.1 ms (1.65x); 8 measured, 1 failed; interrupted"


@pytest.fixture
def printed(capfd, monkeypatch):
    def run(*tasks, width=None, **changes):
        if width:
            monkeypatch.setenv("COLUMNS", str(width))
        print_report(report(*tasks, **changes), ROOFLINE)
        return capfd.readouterr().out.splitlines()

    monkeypatch.delenv("COLUMNS", raising=False)
    return run


def test_the_end_is_a_table_of_before_and_after(printed):
    lines = printed(*good_tasks(), skipped=("a", "b"))
    (row,) = [line.split() for line in lines if line.startswith("conv 3x3 64->64")]
    expected = "conv 3x3 64->64 56x56 2 65% 2.00 1.00 2.00x 231 154% 4/8 conv2d_direct(tile_w=4)"
    assert " ".join(row) == expected
    assert any("as before" in line for line in lines)
    assert "model 5.1 ms -> 3.1 ms (1.65x), tuned operators on one thread" in lines
    on_gpu = printed(*good_tasks(), whole_device=True)
    assert "model 5.1 ms -> 3.1 ms (1.65x), tuned operators on the whole GPU" in on_gpu
    assert any(line.startswith("not tuned: 2 operators") for line in lines)
    assert "records, with the reasons of failures: /records" in lines


def test_the_table_fits_a_narrow_terminal(printed):
    lines = printed(*good_tasks(), width=80)
    assert max(map(len, lines)) <= 80
    assert any("speedup" in line for line in lines)


def test_the_end_of_a_session_without_operators(printed):
    assert printed() == ["zoo:test has no operators that can be tuned"]
    assert lines_of(state(), state(running=False)) == []


def test_the_end_of_a_session_in_which_all_failed(printed):
    lines = printed(task(conv(8, 8), failed=8))
    assert any("none works" in line for line in lines)
    assert "0 of 1 operator timed, tuned operators on one thread" not in lines


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (0.001234, "0.00123"),
        (0.0, "0"),
        (1e-9, "0.0000000"),
        (1.234, "1.23"),
        (12.34, "12.3"),
        (1234.5, "1234"),
    ],
)
def test_numbers(value, text):
    assert tune_view.number(value) == text


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.9, "0:59"), (61, "1:01"), (3661, "1:01:01")])
def test_clocks(seconds, text):
    assert tune_view.clock_text(seconds) == text
