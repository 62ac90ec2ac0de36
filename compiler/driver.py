"""`kompilo.compile`: from an ONNX model to an artifact."""

from __future__ import annotations

import itertools
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .artifact.artifact import Artifact, TargetCode
from .artifact.shared_weights import SharedWeights
from .errors import ArtifactError, ModelError, UsageError
from .model_source import resolve
from .projects import check_project, write_project
from .tensor_spec import TensorSpec
from .version import VERSION

if TYPE_CHECKING:
    import numpy as np
    import onnx
    import tvm

    from .calibration.samples import Source as Calibration
    from .frontend.host_import import ImportedProgram
    from .frontend.importer import ImportedModel
    from .passes.quantize.module import QuantizedModule
    from .schedule.selection import Selector
    from .schedule.target import Target
    from .segments import Segment
    from .tune.library import RecordLibrary, Records

    Model = str | os.PathLike[str] | bytes | onnx.ModelProto
    Progress = Callable[[str, int, int], None]

PRECISIONS = ("fp32", "tf32", "fp16", "int8")


def _silent(stage: str, done: int, total: int) -> None:
    """Progress without a listener."""


def compile(
    model: Model,
    target: str | Sequence[str] = "cpu",
    inputs: Mapping[str, Sequence[int | str]] | None = None,
    precision: str = "fp32",
    records: Records = None,
    progress: Progress | None = None,
    calibration: Calibration | None = None,
    calibration_method: str = "minmax",
    host: bool = True,
    project: str | os.PathLike[str] | None = None,
    pieces: int | None = None,
    values: Mapping[str, Any] | None = None,
) -> Artifact:
    """Compile an ONNX model for one or several targets.

    Args:
        model: path of an ONNX file, its bytes, a ModelProto, or "zoo:NAME".
        target: "cpu" (this machine), a preset such as "cpu:znver4", or a list of targets.
        inputs: shapes for some or all inputs, by name; a fixed shape gives faster code than a dynamic one.
        precision: "fp32" computes as the model says. "tf32" lets products of float32 be rounded to ten bits, as the
            matrix units of NVIDIA's GPUs take them. "fp16" multiplies and stores in float16, with sums in float32;
            inputs and outputs keep their types. "int8" computes in 8-bit integers, see docs/quantization.md.
        records: a folder of tuning records, or several, asked before the user's own (KOMPILO_RECORDS) and those that
            come with Kompilo; False: neither records nor what was learnt from them.
        progress: called with (stage, done, total) as the work goes on.
        calibration: for "int8": a .npz file, or a mapping, with samples of each input stacked along a new first axis.
        calibration_method: "minmax", or "percentile" to cut off the largest 0.01% of each value's magnitudes.
        host: whether operators that no target has (on strings, sequences, optionals; images) may stay on the host,
            where the onnx package's reference evaluator runs them: the artifact's `segments` tell which and why. If
            not, a model that has such operators is refused.
        project: for a target that builds hardware (fpga:PART): a folder for its project, see docs/fpga.md.
        pieces: cut the model into so many pieces at most, each with code of its own: `kompilo.Pipeline` shares them out
            among devices, see docs/runtime.md. The artifact's `segments` are the pieces.
        values: inputs that are these numbers, lists or arrays in every run: the artifact does not take them, and what
            follows from them is computed now, such as which branch of an `If` is taken.

    Returns:
        An artifact to `save` as a .kpo file, or to give to `kompilo.load`.

    Raises:
        ModelError, InputError, TargetError, UsageError: one sentence on what was expected and found.
    """
    targets = _find_targets(target)
    check_precision(precision, targets, calibration)
    check_project(project, targets)
    library = _find_records(records)
    report = progress or _silent
    started = time.perf_counter()
    report("import", 0, 1)
    program = _import(model, inputs, host, values)
    _check_host(program)
    if pieces is not None:
        program = _split(program, pieces, calibration)
    weights = SharedWeights()
    modules, quantization = _modules(program, calibration, calibration_method, report)
    codes = tuple(
        replace(
            compile_module(mod, name, _selector(found, library, precision), weights, report),
            segment=number if program.segments else None,
        )
        for name, found in targets.items()
        for number, mod in modules.items()
    )
    if project is not None:
        _write_project(project, targets, program, modules)
    provenance = {
        **program.provenance,
        **_versions(),
        "precision": precision,
        **quantization,
        "records": _records_used(library, codes),
    }
    provenance["compile_seconds"] = round(time.perf_counter() - started, 2)
    return Artifact(program.inputs, program.outputs, codes, weights.arrays, provenance, program.segments)


def _split(program: ImportedProgram, pieces: int, calibration: Calibration | None) -> ImportedProgram:
    from .pieces.split import split_program

    if calibration is not None:
        raise UsageError("pieces: expected a model without calibration, found one for int8.")
    return split_program(program, pieces)


def _write_project(
    project: str | os.PathLike[str],
    targets: Mapping[str, Target],
    program: ImportedProgram,
    modules: Mapping[int, tvm.ir.IRModule],
) -> None:
    """Writes a project, with what this machine's CPU computes of the model."""
    if program.segments:
        raise UsageError(f"project: expected a model that is compiled as a whole, found {program.not_compiled[0]}.")
    from .runtime.module import load
    from .schedule.target import find_target

    weights = SharedWeights()
    code = compile_module(modules[0], "cpu", _selector(find_target("cpu"), _find_records(None), "fp32"), weights)
    module = load(Artifact(program.inputs, program.outputs, (code,), weights.arrays, {}))
    write_project(project, targets, program.inputs, lambda feeds: list(module.run(feeds).values()))


def ir_after(
    model: Model,
    phase: str,
    target: str = "cpu",
    inputs: Mapping[str, Sequence[int | str]] | None = None,
    records: Records = None,
    precision: str = "fp32",
    calibration: Calibration | None = None,
    calibration_method: str = "minmax",
) -> str:
    """Text of the IR (Relax and TIR, as TVMScript) after the pipeline phase called `phase` ("import" is the first).

    Arguments are those of `compile`.
    """
    from .passes.pipeline import phase_names, run_phases
    from .schedule.selection import Selector
    from .schedule.target import find_target
    from .tune.advisors import default_advisors

    library = _find_records(records)
    program = _import(model, inputs)
    if phase == "import":
        return _scripts(program, {number: part.mod for number, part in program.compiled.items()})
    found = find_target(target)
    check_precision(precision, {target: found}, calibration)
    selector = Selector(found, default_advisors(found, library), precision)
    stop = _known_phase(phase, phase_names())
    modules, _ = _modules(program, calibration, calibration_method)
    done = {n: run_phases(mod, found, stop_after=stop, selector=selector) for n, mod in modules.items()}
    return _scripts(program, done)


def _scripts(program: ImportedProgram, modules: Mapping[int, tvm.ir.IRModule]) -> str:
    """The text of the compiled parts' modules, and between them what stays on the host."""
    if not program.segments:
        return str(modules[0].script())
    texts = []
    for number, segment in enumerate(program.segments):
        texts.append(f"# Segment {number}: {_kind(segment)}")
        texts += [f"#   {operator}" for operator in segment.not_compiled]
        texts += [str(modules[number].script())] if number in modules else []
    return "\n".join(texts)


def _kind(segment: Segment) -> str:
    return "compiled" if segment.is_compiled else "on the host" if segment.on_host else "decided in each run"


def _check_host(program: ImportedProgram) -> None:
    """ModelError unless the evaluator can be made of what stays on the host."""
    if not program.segments:
        return
    from .runtime.host_evaluator import HostSegment

    for segment in program.segments:
        try:
            if segment.on_host:
                HostSegment(segment)
        except ArtifactError as error:
            raise ModelError(error.message) from error


def _modules(
    program: ImportedProgram, calibration: Calibration | None, method: str, report: Progress = _silent
) -> tuple[dict[int, tvm.ir.IRModule], dict[str, Any]]:
    """The modules of the compiled parts, in integers if there is a calibration, and what the artifact says of that."""
    if calibration is None:
        return {number: part.mod for number, part in program.compiled.items()}, {}
    if program.segments:
        operator = program.not_compiled[0]
        raise UsageError(f"calibration: expected a model that is compiled as a whole, found {operator}.")
    quantized = quantize_model(program.compiled[0], calibration, method, report)
    return {0: quantized.mod}, {"quantization": quantized.as_dict()}


def _known_phase(phase: str, known: Sequence[str]) -> str:
    if phase not in known:
        raise UsageError(f"IR level: expected one of import, {', '.join(known)}, found {phase!r}.")
    return phase


def _import(
    model: Model,
    inputs: Mapping[str, Sequence[int | str]] | None,
    host: bool = True,
    values: Mapping[str, Any] | None = None,
) -> ImportedProgram:
    from .frontend.host_import import import_program

    return import_program(resolve(model), inputs, host, values)


def _find_targets(target: str | Sequence[str]) -> dict[str, Target]:
    """The targets by the names they are asked for; UsageError unless there is one, and each once."""
    from .schedule.target import find_target

    names = [target] if isinstance(target, str) else target
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise UsageError(f"target: expected a name or a list of names, found {target!r}.")
    if not names:
        raise UsageError("target: expected at least one target, found an empty list.")
    targets: dict[str, Target] = {}
    for name in names:
        found = find_target(name)
        twin = next((other for other, known in targets.items() if known.spec.key == found.spec.key), None)
        if twin is not None:
            raise UsageError(f"target: expected each target once, found {twin!r} and {name!r}, both {found.spec.key}.")
        targets[name] = found
    return targets


def check_precision(precision: str, targets: Mapping[str, Target], calibration: object = None) -> None:
    """UsageError unless all of `targets` compute in `precision`, and there is calibration data if it needs some."""
    if precision not in PRECISIONS:
        raise UsageError(f"precision: expected one of {', '.join(PRECISIONS)}, found {precision!r}.")
    for name, target in targets.items():
        if precision not in target.precisions:
            known = " or ".join(target.precisions)
            raise UsageError(f"precision: target {name!r} computes in {known}, found {precision!r}.")
    if (precision == "int8") != (calibration is not None):
        found = "none" if calibration is None else f"some for precision {precision!r}"
        raise UsageError(
            f"calibration: expected data for precision 'int8', and for no other, found {found}.",
            "--calibration FILE.npz has samples of each input, see docs/quantization.md.",
        )


def quantize_model(
    imported: ImportedModel, calibration: Calibration, method: str = "minmax", report: Progress = _silent
) -> QuantizedModule:
    """The imported model in 8-bit integers, ranges measured by running it on this machine's CPU.

    Arguments and errors as for `compile`.
    """
    from .calibration.ranges import check_method
    from .calibration.samples import read_samples
    from .passes.quantize.module import quantize_module

    check_method(method)
    samples = read_samples(calibration, imported.inputs)
    done = itertools.count()

    def build(mod: tvm.ir.IRModule) -> Callable[[dict[str, np.ndarray]], list[np.ndarray]]:
        run = _runner(mod, imported)

        def observed(sample: dict[str, np.ndarray]) -> list[np.ndarray]:
            report("calibrate", next(done) % len(samples), len(samples))
            return run(sample)

        return observed

    return quantize_module(imported.mod, samples, build, method)


def _runner(mod: tvm.ir.IRModule, imported: ImportedModel) -> Callable[[dict[str, np.ndarray]], list[np.ndarray]]:
    """A function of inputs by name that gives the outputs of `mod`, which has the inputs of `imported`, on this CPU."""
    from .passes.anchors import tensor_type
    from .runtime.module import load
    from .schedule.target import find_target

    weights = SharedWeights()
    code = compile_module(mod, "cpu", _selector(find_target("cpu"), _find_records(None), "fp32"), weights)
    types = [tensor_type(value) for value in mod["main"].body.body.fields]
    outputs = tuple(TensorSpec(f"value{k}", t.shape, t.dtype) for k, t in enumerate(types))
    shapes = [tensor_type(param).shape for param in mod["main"].params]
    inputs = tuple(TensorSpec(s.name, shape, s.dtype) for s, shape in zip(imported.inputs, shapes, strict=True))
    module = load(Artifact(inputs, outputs, (code,), weights.arrays, {}))
    return lambda sample: list(module.run(sample).values())


def _find_records(records: Records) -> RecordLibrary:
    from .tune.library import RecordLibrary

    return RecordLibrary(RecordLibrary.of(records).stores)


def _selector(target: Target, library: RecordLibrary, precision: str) -> Selector:
    from .schedule.selection import Selector
    from .tune.advisors import default_advisors

    return Selector(target, default_advisors(target, library), precision, library.known_design(target.spec.key))


def compile_module(
    mod: tvm.ir.IRModule, name: str, selector: Selector, weights: SharedWeights, report: Progress = _silent
) -> TargetCode:
    """Code of an imported module for the selector's target, called `name` in the artifact.

    `weights` grows by what this target packs differently from those before it.
    """
    from .build import build
    from .passes.lift_weights import lift_weights
    from .passes.pipeline import run_phases

    target = selector.target
    mod, own = lift_weights(run_phases(mod, target, report, selector=selector))
    report("build", 0, 1)
    built = build(mod, target, own, selector.designs)
    report("build", 1, 1)
    return TargetCode(
        name=name,
        key=target.spec.key,
        triple=target.triple,
        library=built.library,
        cpu_features=target.required_features,
        operators=built.operators,
        memory=built.memory,
        weights=tuple(weights.place(array) for array in built.weights),
        device=built.device,
    )


def _records_used(library: RecordLibrary, codes: Sequence[TargetCode]) -> dict[str, Any] | None:
    """How many kernels records chose, and the cost model; the files of those records; how much could not be read."""
    from .tune.advisors import MODEL_SOURCE

    if not library.stores:
        return None
    chosen = [
        library.chosen[code.key, o.spec]
        for code in codes
        for o in code.operators
        if (code.key, o.spec) in library.chosen
    ]
    named = [(code, *library.chosen_designs[code.key]) for code in codes if code.key in library.chosen_designs]
    designs = [file for code, design, file in named for o in code.operators if o.source == design.source]
    return {
        "used": len(chosen) + len(designs),
        "files": sorted({known.file for known in chosen} | set(designs)),
        "predicted": sum(o.source == MODEL_SOURCE for code in codes for o in code.operators),
        "unreadable": sum(len(library.problems(code.key)) for code in codes),
    }


def _versions() -> dict[str, Any]:
    import tvm

    return {
        "kompilo": VERSION,
        "tvm": tvm.__version__,
        "python": platform.python_version(),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
