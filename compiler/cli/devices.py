"""`kompilo devices`: what `run --device` and `--devices` may name on this machine, and how data move between them."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from ..number_words import size_text, time_text
from . import console
from .options import AsJson

if TYPE_CHECKING:
    from ..runtime.links import Link
    from ..runtime.machine import DeviceFacts

_COLUMNS = ("device", "capability", ">memory", ">free", ">load")


def devices(
    measure: Annotated[bool, typer.Option("--measure", help="Measure the links anew.")] = False,
    as_json: AsJson = False,
) -> None:
    """List this machine's devices: capability, memory, load, and the speed of the links between them."""
    from ..runtime.links import shared_memory_link
    from ..runtime.machine import list_devices

    found = list_devices()
    link = shared_memory_link(again=measure)
    if as_json:
        console.print_json({"devices": [asdict(facts) for facts in found], "links": {"cpu": asdict(link)}})
        return
    console.print_table("Devices", _COLUMNS, [_row(facts) for facts in found if facts.problem is None])
    console.say(_link_text(link))
    for facts in found:
        if facts.problem is not None:
            console.say(f"{facts.name}: not on this machine: {facts.problem}.")


def _row(facts: DeviceFacts) -> tuple[object, ...]:
    memory, free = (None if size is None else size_text(size) for size in (facts.memory_bytes, facts.free_bytes))
    return facts.name, facts.capability, memory, free, None if facts.load is None else f"{facts.load:.0%}"


def _link_text(link: Link) -> str:
    return f"between cores, by shared memory: {size_text(link.bytes_per_s)}/s, {time_text(link.latency_s)} a message"
