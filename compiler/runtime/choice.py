"""Which of an artifact's targets this machine runs, and why not the others."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from ..artifact.artifact import Artifact
from ..artifact.records import TargetCode
from ..errors import ArtifactError, KompiloError, UsageError
from .devices import KINDS, Missing, best_for, find_device, kind_of, refusal
from .host import check_target

# The way out where the artifact has code for a CPU.
CPU_INSTEAD = "load it with device='cpu'."
_DEVICES = ("cpu", *(kind.name for kind in KINDS.values()))  # kinds of targets that this runtime drives
# Hardware of whole models, which a simulator runs: by any name of the target, or this one.
_DESIGN, _SIMULATION = "design", "fpga:sim"


def choose_target(artifact: Artifact, device: str) -> tuple[TargetCode, int]:
    """The target that `device` names, and the number of the GPU that it is for (0 for a CPU).

    A design of hardware is taken, for its simulator, where its name asks for it, or nothing else is there.

    `device` is a kind ("cuda", the GPU number 1 of it: "cuda:1"), a target's name or key; or "auto" for the first GPU
    here that runs some of the code, or the CPU target with most of this CPU's features. Of several targets for a kind
    of GPU, the one for the newest architecture that the GPU runs is taken.

    Raises:
        UsageError: no target of that name.
        ArtifactError: none fits this machine; the sentence says what is missing, and the hint offers the CPU's code.
    """
    names = ", ".join(t.name if t.name == t.key else f"{t.name} ({t.key})" for t in artifact.targets)
    driven = [t for t in artifact.targets if _kind(t) in _DEVICES or is_design(t)]
    if not driven:
        raise ArtifactError(f"the artifact has code for {names} only, expected one of {', '.join(_DEVICES)}.")
    name, number = split_number(device)
    wanted = [t for t in driven if name in ("auto", _kind(t), t.name, t.key) or (is_design(t) and name == _SIMULATION)]
    if not wanted:
        raise UsageError(f"device {device!r}: expected auto or one of the artifact's targets, {names}.")
    refusals = []
    for kind in KINDS:
        group = [t for t in wanted if t.device and t.device[0].format == kind]
        try:
            if group:
                return _for_some_gpu(group) if name == "auto" else (_for_gpu(group, number), number)
        except ArtifactError as error:
            refusals.append(error)
    designs = [t for t in wanted if is_design(t)]
    if designs and len(designs) == len(wanted):
        return designs[0], 0
    for target in sorted((t for t in wanted if not t.device), key=lambda t: -len(t.cpu_features)):
        try:
            check_target(target)
            return target, 0
        except ArtifactError as error:
            refusals.append(error)
    last = refusals[-1]
    if last.hint or not all(target.device for target in wanted):
        raise last
    raise ArtifactError(last.message, way_out(artifact))


def problem_of(target: TargetCode) -> str | None:
    """Why this machine does not run `target`, in a sentence; None if it does."""
    if is_design(target):
        return _simulation_problem(target)
    if _kind(target) not in _DEVICES:
        return f"Kompilo's loader does not drive targets of the kind {_kind(target)!r}."
    try:
        if target.device:
            _for_some_gpu([target])
        else:
            check_target(target)
    except KompiloError as error:  # ArtifactError, or TVM's runtime is not installed at all
        return error.message
    return None


def is_design(target: TargetCode) -> bool:
    """Whether a target is hardware of the whole model, for a simulator."""
    return bool(target.device) and target.device[0].format == _DESIGN


def _simulation_problem(target: TargetCode) -> str | None:
    from .simulated import simulator_for

    try:
        problem: str | None = simulator_for(target).problem()
    except KompiloError as error:
        return error.message
    return problem


def way_out(artifact: Artifact) -> str:
    """What to do where a GPU does not serve."""
    if any(_kind(target) == "cpu" for target in artifact.targets):
        return CPU_INSTEAD
    return "compile the model for cpu as well, and load it anywhere."


def _for_some_gpu(group: Sequence[TargetCode]) -> tuple[TargetCode, int]:
    """The best of `group`, all for one kind of GPU, on the first GPU that runs any of it, and the GPU's number.

    Where none does, the first is what the error is about.
    """
    refused: ArtifactError | None = None
    for number in itertools.count():
        try:
            return _for_gpu(group, number), number
        except _OtherGpu as error:
            refused = refused or error
        except ArtifactError as error:  # no GPU of that number, if there is one before
            raise refused or error from None
    raise AssertionError("GPUs are finite in number")


def _for_gpu(group: Sequence[TargetCode], number: int) -> TargetCode:
    """The best of `group`, all for one kind of GPU, on GPU `number`."""
    kind = kind_of(group[0])
    assert kind is not None, "targets for GPUs have device code"
    for target in group:
        check_target(target)  # the host's part
    try:
        device = find_device(kind, number)
    except Missing as missing:
        raise refusal(group, missing.message) from None
    best = best_for(device, group)
    if best is not None:
        return best
    archs = " and ".join(dict.fromkeys(code.arch for t in group for code in t.device))
    raise _OtherGpu(
        f"the artifact was built for {archs}, but this machine's GPU ({device.name}) has the version {device.version}."
    )


class _OtherGpu(ArtifactError):
    """The GPU runs none of the code; another one might."""


def split_number(device: str) -> tuple[str, int]:
    """ "cuda" and 1 of "cuda:1"; other names are no numbers of GPUs."""
    kind, colon, number = device.partition(":")
    if colon and number.isdecimal() and kind in _DEVICES[1:]:
        return kind, int(number)
    return device, 0


def _kind(target: TargetCode) -> str:
    """ "cpu" of "cpu:avx2"."""
    return target.name.split(":")[0]
