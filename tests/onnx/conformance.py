"""docs/conformance.md: what the whole suite gave, between two marks in a page that is otherwise written by hand."""

from __future__ import annotations

import datetime
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from suite_cases import KINDS
from suite_runner import Outcome
from suite_worker import CRASH, DISPUTED, HANG, PASS, REFUSED, WRONG

PAGE = Path(__file__).parents[2] / "docs" / "conformance.md"
BEGIN, END = "<!-- what `make conformance` writes -->\n", "<!-- end of what it writes -->\n"
STATES = (PASS, REFUSED, DISPUTED, WRONG, CRASH, HANG)

# Families of cases, the first that fits.
_FAMILIES: dict[str, Callable[[Outcome], bool]] = {
    **{kind: lambda o, kind=kind: o.kind == kind for kind in KINDS},  # type: ignore[misc]
    "node: ai.onnx.ml": lambda o: o.name.startswith("test_ai_onnx_ml_"),
    "node: training": lambda o: o.name.startswith(("test_gradient", "test_adam", "test_adagrad", "test_momentum")),
    "node: bodies of functions": lambda o: "_expanded" in o.name,
    "node: ai.onnx": lambda o: True,
}
# Why operators stay on the host: what their reasons say -> what the page says, the first that fits.
_HOST = {
    "decodes images": "images: no target decodes files of images",
    "n-grams": "n-grams: tables of strings or of integers, looked up in sequences of any length",
    "strings": "strings: no target holds text",
    "optional": "optionals: whether there is a value is known in runs only",
    "sequence": "sequences: how many tensors there are, and of what shapes, is known in runs only",
    "graphs hold": "sequences: how many tensors there are, and of what shapes, is known in runs only",
}


def write_page(outcomes: Sequence[Outcome], path: Path = PAGE) -> None:
    """Put the result of the whole suite in the place of the last one; ValueError where the marks are missing."""
    before, begin, rest = path.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path} has no place for the result")
    path.write_text(before + BEGIN + page(outcomes) + END + after)


def page(outcomes: Sequence[Outcome]) -> str:
    """The result as Markdown."""
    day = datetime.datetime.now(datetime.UTC).date()
    seconds = sum(o.seconds for o in outcomes)
    parts = [
        f"\n{day}, {len(outcomes)} cases, {seconds / 60:.0f} minutes of one core:\n",
        _states(outcomes),
        "### Refused\n",
        _listed((o.reason, o.name) for o in outcomes if o.state == REFUSED),
        "### Judged otherwise\n",
        _listed((o.detail, o.name) for o in outcomes if o.state == DISPUTED),
        "### On the host\n",
        _hosted([o for o in outcomes if o.on_host]),
    ]
    return "\n".join(parts)


def family(outcome: Outcome) -> str:
    """The row of the table that a case belongs to."""
    return next(name for name, fits in _FAMILIES.items() if fits(outcome))


def _states(outcomes: Sequence[Outcome]) -> str:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for o in outcomes:
        for row in (family(o), "all"):
            counts[row][o.state] += 1
    lines = ["| family | cases | " + " | ".join(STATES) + " |", "|---|" + "---:|" * (len(STATES) + 1)]
    for row in (*reversed(_FAMILIES), "all"):
        if counts[row]:
            found = " | ".join(str(counts[row][state]) for state in STATES)
            lines.append(f"| {row} | {counts[row].total()} | {found} |")
    return "\n".join(lines) + "\n"


def _listed(cases: Iterable[tuple[str, str]]) -> str:
    """Names of cases by reason."""
    groups: dict[str, list[str]] = defaultdict(list)
    for reason, name in cases:
        groups[reason].append(name.removeprefix("test_"))
    lines = ["| why | cases |", "|---|---|"]
    for reason in sorted(groups, key=lambda r: (-len(groups[r]), r)):
        lines.append(f"| {reason.replace('|', '/')} | {', '.join(sorted(groups[reason]))} |")
    return "\n".join(lines) + "\n" if groups else "None.\n"


def _hosted(outcomes: Sequence[Outcome]) -> str:
    operators = Counter(name for o in outcomes for name in dict.fromkeys(o.on_host))
    named = ", ".join(f"`{name}` {count}" for name, count in operators.most_common())
    lead = f"{len(outcomes)} of the cases that pass have operators that no target has: {named or 'none'}.\n"
    return lead + "\n" + _listed((host_reason(o), o.name) for o in outcomes)


def host_reason(outcome: Outcome) -> str:
    """Why a case has operators on the host, in the page's words."""
    return next((words for mark, words in _HOST.items() if mark in outcome.detail), outcome.detail)
