"""What the verbs say of int8: which operators became integer, and how accurate the result is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..errors import InputError
from ..number_words import count
from . import console
from .feeds import Feeds

if TYPE_CHECKING:
    import numpy as np

    from ..peers.accuracy import Accuracy
    from ..peers.base import Peer
    from ..tensor_spec import TensorSpec

# Noise of a tenth of the signal's power. Quantization that has gone wrong gives 0 dB and less; a single layer in int8
# has 30 to 45 dB, and what is left of it behind 50 layers with random weights is 11 to 20 dB.
LEAST_SQNR = 10.0


def print_quantization(facts: Mapping[str, Any]) -> None:
    """The operators that compute in integers, and those that do not, with the reason."""
    rows = [(op, n, "int8", "") for op, n in facts["integer"].items()]
    rows += [(row["operator"], row["count"], "float32", row["reason"]) for row in facts["float"]]
    title = f"Quantized by {count(facts['samples'], 'sample')} ({facts['method']}), {count(facts['values'], 'range')}"
    console.print_table(title, ("operator", ">operators", "computes in", "why"), rows)


def calibration_feeds(path: Path, specs: Sequence[TensorSpec]) -> list[Feeds]:
    """The samples of a calibration file as inputs of runs; InputError as `read_samples` raises."""
    from ..calibration.samples import read_samples

    return [Feeds(arrays, {}, False) for arrays in read_samples(path, specs)]


def read_labels(path: Path) -> np.ndarray:
    """The classes in a .npy file, one for each row of all samples; InputError if it holds no vector of integers."""
    import numpy as np

    try:
        labels = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        raise InputError(f"labels: expected a .npy file, found that {str(path)!r} is none.") from None
    if not isinstance(labels, np.ndarray) or labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise InputError(f"labels: expected a vector of integers in {str(path)!r}.")
    return labels


def measure(
    module: Any, reference: Peer, feeds: Sequence[Feeds], labels: np.ndarray | None, report: console.Progress
) -> list[Accuracy]:
    """The accuracy of each float output of `module` over all of `feeds`.

    Raises InputError if there are not as many labels as rows.
    """
    from ..peers.accuracy import add_outputs, is_classes

    found: dict[str, Accuracy] = {}
    used = 0
    for k, sample in enumerate(feeds):
        report("verify", k, len(feeds))
        expected = reference.outputs(sample.arrays)
        rows = max((v.shape[0] for v in expected.values() if is_classes(v)), default=0)
        own = None if labels is None else labels[used : used + rows]
        used += rows
        if labels is not None and used > len(labels):
            raise InputError(f"labels: expected one for each row of all samples, found only {len(labels)}.")
        add_outputs(found, module.run(sample.arrays), expected, own)
    if labels is not None and used != len(labels):
        raise InputError(f"labels: expected {used}, one for each row of all samples, found {len(labels)}.")
    report("verify", len(feeds), len(feeds))
    if not found:
        raise InputError("the model has no float outputs whose accuracy could be measured.")
    return list(found.values())


def finish(
    artifact: Path,
    reference: str,
    found: Sequence[Accuracy],
    tolerance: float | None,
    samples: int,
    as_json: bool,
) -> None:
    """Print the accuracies; exit code 1 if an output misses the bound.

    That is `tolerance`, of the greatest difference over the range of the output, or LEAST_SQNR where none was given.
    """
    failed = [a for a in found if not _passes(a, tolerance)]
    bound = f"SQNR of at least {LEAST_SQNR:g} dB" if tolerance is None else f"error of at most {tolerance:g} of range"
    if as_json:
        facts = {"reference": reference, "samples": samples, "expected": bound}
        outputs = [a.as_dict() | {"passes": _passes(a, tolerance)} for a in found]
        console.print_json({"passes": not failed, **facts, "outputs": outputs})
    else:
        heads = ["output", ">max error / range", ">SQNR (dB)", ">top-1 agreement"]
        labelled = any(a.correct for a in found)
        heads += [f">accuracy before ({reference}, fp32)", ">after (int8)"] if labelled else []
        title = f"{artifact.name} (int8) against {reference} (fp32), {count(samples, 'input set')}, expected {bound}"
        console.print_table(title, [*heads, "verdict"], [_row(a, labelled, tolerance) for a in found])
    if failed:
        console.note(f"kompilo: {len(failed)} of {len(found)} outputs miss the expected {bound}")
        raise typer.Exit(1)


def _passes(accuracy: Accuracy, tolerance: float | None) -> bool:
    return accuracy.sqnr >= LEAST_SQNR if tolerance is None else accuracy.error <= tolerance


def _row(accuracy: Accuracy, labelled: bool, tolerance: float | None) -> tuple[str, ...]:
    agreement = "" if accuracy.agreement is None else f"{accuracy.agreement:.1%} of {accuracy.judged}"
    correct = [f"{share:.1%}" for share in accuracy.correct or ()] or ["", ""]
    verdict = "ok" if _passes(accuracy, tolerance) else "FAILED"
    figures = (f"{accuracy.error:.2e}", f"{accuracy.sqnr:.1f}", agreement)
    return (accuracy.name, *figures, *(correct if labelled else ()), verdict)
