"""`kompilo targets`: what can be compiled for, and what is known of this machine."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..errors import TargetError
from ..scratch import scratch_folder
from . import console
from .options import AsJson

if TYPE_CHECKING:
    from ..schedule.target import Target


def targets(as_json: AsJson = False) -> None:
    """List the installed targets, their presets, and the facts of this machine."""
    from ..schedule.target import available

    facts = [_facts(kind) for kind in available()]
    if as_json:
        console.print_json(facts)
        return
    for target in facts:
        _print_target(target)


def _facts(kind: str) -> dict[str, Any]:
    """What there is to say of one kind of target; "problem" if it cannot be used on this machine."""
    from ..schedule.target import find_target

    try:
        target = find_target(kind)
    except TargetError as error:
        return {"target": kind, "problem": error.message}
    return {
        "target": kind,
        "presets": list(type(target).presets()),
        "this_machine": asdict(target.spec),
        "link": _link_problem(target) or "ok",
    }


def _link_problem(target: Target) -> str | None:
    """Why code for this machine cannot be turned into a library, found by doing so with a tiny function; else None."""
    import tvm
    from tvm import relax

    x = relax.Var("x", relax.TensorType((1,), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        builder.emit_func_output(x)
    executable = tvm.compile(builder.get(), target=target.tvm_target())
    with scratch_folder("targets") as folder:
        try:
            target.export(executable, folder / "lib.so")
        except TargetError as error:
            return str(error)
    return None


def _print_target(facts: dict[str, Any]) -> None:
    kind = facts["target"]
    if "problem" in facts:
        console.say(f"{kind}: not on this machine: {facts['problem']}")
        return
    rows = [(_label(name), _value(name, value)) for name, value in facts["this_machine"].items() if name != "kind"]
    rows.append(("linker", facts["link"]))
    rows.append(("presets", " ".join(f"{kind}:{p}" for p in facts["presets"])))
    console.print_table(f"{kind} (this machine)", ("fact", "value"), rows, fold=("value",))


def _label(name: str) -> str:
    return name.removesuffix("_bytes").replace("_", " ")


def _value(name: str, value: object) -> str:
    if isinstance(value, (tuple, list)):
        return " ".join(map(str, value)) or "none"
    if name.endswith("_bytes") and isinstance(value, int):
        return f"{value} bytes" if value < 1024 else f"{value // 1024} KiB"
    return str(value)
