"""`kompilo inspect`: what is inside an artifact or a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ArtifactError, UsageError
from ..model_source import is_artifact, resolve
from ..number_words import size_text
from . import console
from .arguments import parse_shapes
from .host_view import decided_facts, host_facts, print_decided, print_host
from .options import AsJson, EitherArgument, InputShapes
from .quantization import print_quantization

if TYPE_CHECKING:
    from ..artifact.artifact import Artifact
    from ..artifact.records import MemoryPlan, Operator, TargetCode
    from ..device_code import DeviceCode
    from ..segments import Segment
    from ..tensor_spec import TensorSpec


def inspect(
    file: EitherArgument,
    ir: Annotated[
        str | None,
        typer.Option(
            "--ir", metavar="LEVEL", help="Print the IR of a model after this phase; 'list' names the phases."
        ),
    ] = None,
    target: Annotated[str, typer.Option("--target", "-t", help="The target that --ir compiles for.")] = "cpu",
    inputs: InputShapes = None,
    as_json: AsJson = False,
) -> None:
    """Show inputs, outputs, operators, memory and origin of an artifact, or the operators of a model."""
    if is_artifact(file):
        if ir is not None:
            raise UsageError("expected a model for --ir, found an artifact.", f"kompilo inspect MODEL.onnx --ir {ir}")
        _inspect_artifact(Path(file), as_json)
    elif ir is not None:
        _print_ir(file, ir, target, inputs or (), as_json)
    else:
        _inspect_model(file, inputs or (), as_json)


def _print_ir(model: str, level: str, target: str, inputs: Sequence[str], as_json: bool) -> None:
    from ..driver import ir_after
    from ..passes.pipeline import phase_names

    levels = ("import", *phase_names())
    if level == "list":
        console.print_json(levels) if as_json else console.say("\n".join(levels))
        return
    if level not in levels:
        raise UsageError(f"expected one of {', '.join(levels)} for --ir, found {level!r}.")
    text = ir_after(model, level, target, parse_shapes(inputs) or None)
    console.print_json({"model": model, "level": level, "ir": text}) if as_json else print(text)


def _inspect_artifact(path: Path, as_json: bool) -> None:
    from ..artifact.artifact import Artifact

    artifact = Artifact.open(path)
    try:
        artifact.check()
        integrity = "ok"
    except ArtifactError as error:
        integrity = error.message
    facts = _artifact_facts(artifact, path, integrity)
    if not as_json:
        _print_artifact(artifact, facts)
    elif integrity == "ok":
        console.print_json(facts)
    if integrity != "ok":
        raise ArtifactError(integrity)


def _artifact_facts(artifact: Artifact, path: Path, integrity: str) -> dict[str, Any]:
    from ..runtime.choice import problem_of

    weights = sum(w.nbytes for w in artifact.weights)
    return {
        "file": str(path),
        "bytes": path.stat().st_size,
        "format_version": artifact.format_version,
        "integrity": integrity,
        "inputs": [asdict(s) for s in artifact.inputs],
        "outputs": [asdict(s) for s in artifact.outputs],
        "weights": {"count": len(artifact.weights), "bytes": weights},
        "targets": [
            {
                "name": t.name,
                "key": t.key,
                "segment": t.segment,
                "triple": t.triple,
                "cpu_features": t.cpu_features,
                "code_bytes": len(t.library),
                "device": [_device_facts(code) for code in t.device],
                "weights": _weight_facts(artifact, t),
                "problem_here": problem_of(t),
                "memory": asdict(t.memory) | {"total_bytes": t.memory.total_bytes},
                "operators": [asdict(o) for o in t.operators],
            }
            for t in artifact.targets
        ],
        "segments": [_segment_facts(segment) for segment in artifact.segments],
        "host_operators": host_facts(artifact.segments),
        "decided_operators": decided_facts(artifact.segments),
        "provenance": artifact.provenance,
    }


def _segment_facts(segment: Segment) -> dict[str, Any]:
    return {
        "on_host": segment.on_host,
        "decided_in_runs": segment.control is not None,
        "inputs": [asdict(s) for s in segment.inputs],
        "outputs": [asdict(s) for s in segment.outputs],
        "model_bytes": len(segment.model or b""),
    }


def _device_facts(code: DeviceCode) -> dict[str, Any]:
    return {"format": code.format, "arch": code.arch, "bytes": len(code.code), "kernels": len(code.kernels)}


def _weight_facts(artifact: Artifact, target: TargetCode) -> dict[str, int]:
    """Weights that a target takes, and those of them that no other target takes too."""
    everything = range(len(artifact.weights))
    takers = Counter(i for t in artifact.targets for i in set(everything if t.weights is None else t.weights))
    taken = set(everything if target.weights is None else target.weights)
    alone = [i for i in taken if takers[i] == 1]
    sizes = [w.nbytes for w in artifact.weights]
    return {
        "count": len(taken),
        "bytes": sum(sizes[i] for i in taken),
        "own_count": len(alone),
        "own_bytes": sum(sizes[i] for i in alone),
    }


def _print_artifact(artifact: Artifact, facts: dict[str, Any]) -> None:
    weights = facts["weights"]
    console.say(
        f"{facts['file']}: {size_text(facts['bytes'])}, format {facts['format_version']}, "
        f"{weights['count']} weights of "
        f"{size_text(weights['bytes'])}, integrity {facts['integrity']}"
    )
    _print_signature(artifact.inputs, artifact.outputs)
    print_host(facts["host_operators"], len(artifact.segments))
    print_decided(facts["decided_operators"])
    if len(artifact.targets) > 1:
        heads = ("target", "key", "device code", ">bytes", ">kernels", ">weights", ">of its own", "runs here")
        console.print_table("Variants", heads, [_variant_row(target) for target in facts["targets"]])
    for code, found in zip(artifact.targets, facts["targets"], strict=True):
        segment = "" if code.segment is None else f", segment {code.segment}"
        console.say(f"target {code.name}{segment}: {code.key}, {code.triple}, {size_text(len(code.library))} of code")
        for device in found["device"]:
            size = size_text(device["bytes"])
            console.say(f"device code: {device['format']} for {device['arch']}, {size}, {device['kernels']} kernels")
        if found["problem_here"]:
            console.say(f"does not run here: {found['problem_here']}")
        console.say(f"needs CPU features: {' '.join(code.cpu_features) or 'none'}")
        columns = ("operator", "kind", "template", "config", "from", ">calls", ">MFLOP")
        console.print_table(
            "Operators", columns, [_operator_row(o) for o in code.operators], fold=("operator", "config", "from")
        )
        console.say(_memory_text(code.memory))
    quantization = artifact.provenance.get("quantization")
    if quantization:
        print_quantization(quantization)
    rows = [(k, _provenance_text(v)) for k, v in artifact.provenance.items() if v is not None and k != "quantization"]
    console.print_table("Origin", ("what", "value"), rows, fold=("value",))


def _variant_row(target: dict[str, Any]) -> tuple[object, ...]:
    device = target["device"]
    archs = " ".join(dict.fromkeys(f"{d['format']} {d['arch']}" for d in device)) or "none"
    size = size_text(target["code_bytes"] + sum(d["bytes"] for d in device))
    kernels = sum(d["kernels"] for d in device) or ""
    weights = target["weights"]
    shares = (size_text(weights["bytes"]), size_text(weights["own_bytes"]))
    return (target["name"], target["key"], archs, size, kernels, *shares, "no" if target["problem_here"] else "yes")


def _operator_row(op: Operator) -> tuple[object, ...]:
    flops = f"{op.flops / 1e6:.1f}" if op.flops is not None else ""
    return (op.name, op.kind, op.template, op.config, op.source, op.calls, flops)


def _memory_text(memory: MemoryPlan) -> str:
    if memory.dynamic and not memory.buffers:
        return "intermediate memory: depends on dynamic dimensions"
    text = f"intermediate memory: {len(memory.buffers)} buffers, {size_text(memory.total_bytes)} in total"
    text += f", largest {size_text(memory.largest_bytes)}"
    return text + ("; more depends on dynamic dimensions" if memory.dynamic else "")


def _provenance_text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_provenance_text(v)}" for k, v in value.items())
    return (" ".join(map(str, value)) or "none") if isinstance(value, list) else str(value)


def _print_signature(inputs: Iterable[TensorSpec], outputs: Iterable[TensorSpec]) -> None:
    rows = [
        (way, s.name, s.dtype, "x".join(map(str, s.shape)) or "scalar")
        for way, specs in (("in", inputs), ("out", outputs))
        for s in specs
    ]
    console.print_table("Signature", ("", "name", "dtype", "shape"), rows)


def _inspect_model(model: str, inputs: Sequence[str], as_json: bool) -> None:
    from .model_facts import model_facts

    source = resolve(model)
    assert isinstance(source, Path)
    facts = model_facts(source, parse_shapes(inputs))
    if as_json:
        console.print_json(facts.as_dict())
        return
    ir = f"IR {facts.ir_version}, " + ", ".join(f"{d} {v}" for d, v in facts.opsets.items())
    console.say(f"{model}: {ir}, {facts.parameters:,} parameters ({size_text(facts.parameter_bytes)})")
    _print_signature(facts.inputs, facts.outputs)
    rows = [(u.operator, u.count, f"{u.flops / 1e6:.1f}" if u.flops else "", u.support) for u in facts.operators]
    console.print_table(
        f"{sum(u.count for u in facts.operators)} nodes", ("operator", ">nodes", ">MFLOP", "support"), rows
    )
    print_host(facts.host_operators)
    if facts.assumed:
        sizes = ", ".join(f"{d}={n}" for d, n in facts.assumed.items())
        console.say(f"FLOPs are counted with assumed {sizes}; --input NAME:SHAPE sets other sizes")
    console.say(f"estimated work: {facts.flops / 1e9:.3f} GFLOP a run (convolutions and matrix products)")
    if facts.unsupported:
        console.say(f"not supported: {', '.join(facts.unsupported)}")
    console.say(f"cannot be compiled: {facts.problem}" if facts.problem else "all operators are supported")
