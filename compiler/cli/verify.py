"""`kompilo verify OUT.kpo MODEL.onnx`: does the artifact compute what the model says?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import KompiloError, ModelError, UsageError
from ..model_source import find_zoo_model, is_artifact, resolve
from ..scratch import scratch_folder
from ..tensor_spec import TensorSpec
from . import console
from .arguments import artifact_values, read_fixed_values
from .feeds import Feeds, fits, sample_feeds
from .host_view import check_tensors
from .options import ArtifactArgument, AsJson, FixedValues, InputValues, Seed, Sizes
from .quantization import calibration_feeds, finish, measure, read_labels

if TYPE_CHECKING:
    from ..peers.base import Peer
    from ..peers.compare import OutputError

_DEFAULT_TOLERANCE = 1e-4
_REFERENCES = ("onnxruntime", "reference")


def verify(
    artifact: ArtifactArgument,
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL.onnx", help="The model it was compiled from, or zoo:NAME.", show_default=False),
    ],
    tolerance: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Bound of max abs error / max abs output; default 1e-4. Of int8: / output range, default none.",
        ),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Number of random input sets.")] = 3,
    against: Annotated[
        str | None, typer.Option(metavar="RUNTIME", help="onnxruntime (default) or reference, the onnx package's own.")
    ] = None,
    inputs: InputValues = None,
    fixed: FixedValues = None,
    shape: Sizes = None,
    calibration: Annotated[
        Path | None,
        typer.Option(metavar="FILE.npz", help="Take the samples of such a file as inputs.", show_default=False),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.npy", help="Of int8: the right class of each row of the samples.", show_default=False
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="Where to run the artifact: auto, cpu, cuda, ...")] = "auto",
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Compare an artifact with a reference runtime on the same inputs; exit code 1 if the tolerance is exceeded."""
    if not is_artifact(artifact) and is_artifact(model):
        raise UsageError("expected the artifact first and the model second.", f"kompilo verify {model} {artifact}")
    source = resolve(model)
    assert isinstance(source, Path)
    if calibration is not None and (inputs or shape):
        raise UsageError("expected either --calibration or --input and --shape, found both.")
    from ..runtime.module import load

    module = load(artifact, device=device)
    integer = module.artifact.provenance.get("precision") == "int8"
    if labels is not None and not integer:
        raise UsageError("--labels: expected an int8 artifact, found one of another precision.")
    check_tensors((*module.inputs, *module.outputs), "verify", strings=True)
    values = artifact_values(module.artifact.provenance.get("values", {}), read_fixed_values(fixed or ()))
    with scratch_folder("verify") as folder, console.progress() as report:
        reference = _reference(against, source, module.inputs, values, folder)
        sampled = _input_sets(model, source, module.inputs, inputs or (), shape or (), seed, samples)
        feeds = list(sampled if calibration is None else calibration_feeds(calibration, module.inputs))
        if integer:
            found = measure(module, reference, feeds, None if labels is None else read_labels(labels), report)
            verdict = partial(finish, artifact, reference.name, found, tolerance, len(feeds), as_json)
        else:
            bound = _default_tolerance(model) if tolerance is None else tolerance
            errors = _compare(module, reference, feeds, report)
            verdict = partial(_finish, artifact, reference.name, errors, bound, feeds, as_json)
    verdict()  # once the line of progress is gone


def _default_tolerance(model: str) -> float:
    entry = find_zoo_model(model)
    return entry.tolerance if entry is not None else _DEFAULT_TOLERANCE


def _reference(
    against: str | None, source: Path, specs: Sequence[TensorSpec], values: Mapping[str, Any], folder: Path
) -> Peer:
    """The runtime to trust, loaded: ONNX Runtime if installed and able to read the model, else the evaluator."""
    from ..peers.base import find_peer, is_installed
    from ..peers.fixed_model import fix_model_shapes

    name = against or "onnxruntime"
    if name not in _REFERENCES:
        raise UsageError(f"expected --against {' or '.join(_REFERENCES)}, found {against!r}.")
    if against is None and not is_installed(name):
        console.note("onnxruntime is not installed (pip install 'kompilo[ort]'): using the onnx reference evaluator")
        name = "reference"
    path = fix_model_shapes(source, {s.name: s.shape for s in specs}, folder / "fixed.onnx", values)
    peer = find_peer(name)
    try:
        peer.load(path, 1)
    except ModelError as error:
        if against is not None or name == "reference":
            raise
        console.note(f"{error.message} Using the onnx reference evaluator.")
        peer = find_peer("reference")
        peer.load(path, 1)
    return peer


def _input_sets(
    model: str,
    source: Path,
    specs: Sequence[TensorSpec],
    values: Sequence[str],
    shapes: Sequence[str],
    seed: int,
    samples: int,
) -> Iterator[Feeds]:
    """The zoo's real inputs where it has any that fit, then `samples` random sets (one, if nothing is random)."""
    entry = find_zoo_model(model)
    if entry is not None and not values and not shapes:
        # Arrays made for the model as it is need not fit the shapes that the artifact was compiled for.
        yield from (Feeds(arrays, {}, False) for arrays in entry.real_inputs() if fits(arrays, specs))
    for k in range(samples):
        feeds = sample_feeds(model, source, specs, values, shapes, seed + k)
        yield feeds
        if not feeds.random:
            return


def _compare(module: Any, reference: Peer, feeds: Sequence[Feeds], report: console.Progress) -> list[OutputError]:
    """The worst error of each output over all input sets."""
    from ..peers.compare import output_errors, worst

    errors: dict[str, OutputError] = {}
    for k, sample in enumerate(feeds):
        report("verify", k, len(feeds))
        ours = module.run(sample.arrays)
        for error in output_errors(ours, reference.outputs(sample.arrays)):
            errors[error.name] = worst(errors[error.name], error) if error.name in errors else error
    report("verify", len(feeds), len(feeds))
    if not errors:
        raise KompiloError("the model has no outputs to compare.")
    return list(errors.values())


def _finish(
    artifact: Path, reference: str, errors: list[OutputError], tolerance: float, feeds: list[Feeds], as_json: bool
) -> None:
    failed = [e for e in errors if not e.passes(tolerance)]
    if as_json:
        least = max(e.max_rel for e in errors)
        outputs = [asdict(e) | {"passes": e.passes(tolerance)} for e in errors]
        facts = {"reference": reference, "samples": len(feeds), "tolerance": tolerance, "least_tolerance": least}
        console.print_json({"passes": not failed, **facts, "assumed": feeds[0].assumed, "outputs": outputs})
    else:
        rows = [
            (e.name, f"{e.max_abs:.2e}", f"{e.max_rel:.2e}", "ok" if e.passes(tolerance) else e.mismatch or "FAILED")
            for e in errors
        ]
        columns = ("output", ">max abs error", ">/ max abs output = least tolerance", "verdict")
        title = f"{artifact.name} against {reference}, {len(feeds)} input sets, tolerance {tolerance:g}"
        console.print_table(title, columns, rows)
        if feeds[0].remark:
            console.say(feeds[0].remark)
    if failed:
        console.note(f"kompilo: {len(failed)} of {len(errors)} outputs exceed the tolerance {tolerance:g}")
        raise typer.Exit(1)
