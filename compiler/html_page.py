"""What all reports share: a self-contained HTML page and its style, and pictures as SVG elements by matplotlib."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from html import escape
from importlib.util import find_spec
from typing import TYPE_CHECKING

from .errors import KompiloError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours that people with any kind of colour vision tell apart (Okabe and Ito 2008), with a dash of their own each.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))
# Text stays text: it can be searched and read aloud, and scales with the page.
_STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
}

_CSS = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 62rem; margin: 2rem auto;
       padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; }
h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; font-size: 13px; }
th, td { padding: .25rem .5rem; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top; }
th { border-bottom: 2px solid #888; }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.config { overflow-wrap: anywhere; }
.won { font-weight: 600; }
.wide { overflow-x: auto; }
.note, dt { color: #555; }
dl { display: grid; grid-template-columns: max-content auto; gap: .1rem 1rem; }
dd, figure { margin: 0; }
svg { width: 100%; height: auto; }
"""


def html_page(title: str, parts: Sequence[str]) -> str:
    """A page called `title` of `parts`, which are HTML, in the style that all reports share."""
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    page = ["<!DOCTYPE html>", '<html lang="en">', f"<head>{head}<style>{_CSS}</style></head>", "<body>"]
    return "\n".join([*page, *parts, "</body>", "</html>", ""])


def check_matplotlib() -> None:
    """Raises KompiloError, with what to install, if plots cannot be drawn."""
    if find_spec("matplotlib") is None:
        raise KompiloError("the HTML report needs matplotlib, which is not installed.", "pip install 'kompilo[report]'")


def new_figure(height: float) -> tuple[Figure, Axes]:
    """A figure of that height in inches, of its own: pyplot's global state, and a display, are not needed."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=(9, height), layout="constrained")
        return figure, figure.add_subplot()


def svg_of(figure: Figure, prefix: str, title: str, titles: dict[str, str] | None = None) -> str:
    """`figure` as an SVG element called `title`; `titles` gives elements (by id) texts that show under the pointer."""
    from matplotlib import rc_context

    out = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with rc_context({**_STYLE, "svg.hashsalt": prefix}):
        figure.savefig(out, format="svg", metadata=nothing)
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\1{prefix}-", text)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"| height="[^"]*pt"', r"\1", text, count=2)
    for name, words in (titles or {}).items():
        text = text.replace(f'<g id="{prefix}-{name}">', f'<g id="{prefix}-{name}"><title>{escape(words)}</title>', 1)
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1)
