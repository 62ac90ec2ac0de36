"""Numbers as people read them: in messages, tables and artifacts' notes."""

from __future__ import annotations


def count(number_of: int, what: str) -> str:
    """ "1 operator", "2 operators"."""
    return f"{number_of} {what}" if number_of == 1 else f"{number_of} {what}s"


def size_text(size: float) -> str:
    """A number of bytes: "3.4 MB" (powers of 1000, as disks and downloads count)."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} GB"


def time_text(seconds: float) -> str:
    """A time with three significant digits: "812 us", "4.31 ms", "1.20 s"."""
    milliseconds = seconds * 1e3
    if milliseconds < 0.9995:  # what rounds to 1000 is of the next unit
        return f"{milliseconds * 1e3:.3g} us"
    return f"{milliseconds:.3g} ms" if milliseconds < 999.5 else f"{seconds:.2f} s"
