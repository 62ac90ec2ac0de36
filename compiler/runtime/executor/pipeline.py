"""`kompilo.Pipeline`: a model on several devices, many requests in flight."""

from __future__ import annotations

import os
import tempfile
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...artifact.artifact import Artifact, read_artifact
from ...element_types import array_dtype
from ...errors import ArtifactError, KompiloError, UsageError
from ..choice import choose_target
from ..core_sets import CoreSet, core_sets
from ..module import Module, arrange, load
from ..tensors import check_shapes, to_array
from .arena import Arena, as_json, places_of
from .dispatcher import Dispatcher
from .messages import Orders
from .placement import Placement, pieces_of, side_by_side
from .process import WorkerProcess
from .requests import Request, Slots, deadline_of, urgency_of
from .routes import Routes
from .times import StageTimes

_SLOTS, _SLOTS_A_DEVICE, _MOST_SLOTS = 4, 4, 1 << 16
_PATIENCE_S = 10.0


class Pipeline:
    """A model on several devices of this machine, each with a worker process bound to its cores.

    Requests may come from many threads. Each takes the route of the plan on which it is expected to be done first, and
    is answered once: what a worker that ends, hangs or fails had begun is done elsewhere. Close it, or use it in a
    `with` statement.

    Args:
        source: a path of a .kpo file, its bytes, or an Artifact; all tensors have fixed sizes.
        devices: core sets such as "cpu:0" and "cpu:1=cpu:avx2", as a list or with commas; by default those of `plan`.
        plan: what `kompilo plan` wrote, as a path or a Placement; without one every device runs the whole model.
        in_flight: requests, at most 65,536, that have a place in memory at a time; further ones wait in `submit`.
        patience: seconds of silence, beside what a stage should take, after which a worker is taken for hanging.

    Raises:
        ArtifactError: the artifact is missing, damaged or not for these devices.
        UsageError: impossible devices, a plan for another model, open dimensions, operators on the host.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | bytes | Artifact,
        devices: str | Sequence[str] | None = None,
        plan: str | os.PathLike[str] | Placement | None = None,
        in_flight: int | None = None,
        patience: float = _PATIENCE_S,
    ) -> None:
        self._file, self.artifact = _opened(source)
        weakref.finalize(self, os.close, self._file)
        self.inputs, self.outputs = tuple(self.artifact.inputs), tuple(self.artifact.outputs)
        pieces = pieces_of(self.artifact)
        placement = Placement.read(plan) if isinstance(plan, str | os.PathLike) else plan
        self.devices: tuple[CoreSet, ...] = _devices(devices, placement)
        self.placement = placement or side_by_side([str(d) for d in self.devices], len(pieces))
        self.placement.check(self.artifact)
        for device in self.devices:
            _check_code(self.artifact, device)
        self._slots_count = _slots_of(in_flight, len(self.devices))
        self._patience = patience
        self._names = {spec.name: k for k, spec in enumerate(self.inputs)}
        self._dtypes = [array_dtype(spec.dtype) for spec in self.inputs]
        self._pieces = pieces
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._executor: _Executor | None = None
        self._closed = False
        self._direct: Module | None = None
        alone = self.placement.single
        if alone is None:
            self._started()
        else:
            self._direct = load(f"/proc/self/fd/{self._file}", str(self.devices[alone]))

    def __call__(self, *values: Any, **named: Any) -> Any:
        """Runs the model on one value per input and returns its result; values and errors as for `kompilo.load`.

        On a single device the calling thread runs it, bound to the device's cores, with no worker between.
        """
        if self._direct is not None:
            if self._closed:
                raise _is_closed()
            return self._direct(*values, **named)
        return self.submit(*values, **named).result()

    def submit(
        self, *values: Any, priority: str = "normal", deadline: float | None = None, **named: Any
    ) -> Future[Any]:
        """Hands a request in, and waits only while there is no place for it.

        Args:
            values, named: as for a call; they are copied before this returns.
            priority: "interactive" goes before "normal", that before "batch"; all grow more urgent as they wait.
            deadline: seconds from now, after which the request fails with DeadlineError.

        Returns:
            A future of the result. `cancel` gives the request up at any time before it is done.

        Raises:
            UsageError, InputError: impossible arguments, or a call from a callback of a future.
            DeadlineError: there was no place until the deadline.
            KompiloError: the pipeline is closed.
        """
        urgency, until = urgency_of(priority), deadline_of(deadline)
        executor = self._started()
        ordered = arrange(values, named, self._names)
        arrays = [to_array(v, s, d) for v, s, d in zip(ordered, self.inputs, self._dtypes, strict=True)]
        check_shapes(self.inputs, arrays)
        return executor.submit(self.inputs, arrays, priority, urgency, until)

    def run(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The outputs by name for `inputs` by name; values, results and errors as for a call."""
        result = self(*arrange((), inputs, self._names))
        results = result if isinstance(result, tuple) else (result,)
        return dict(zip([spec.name for spec in self.outputs], results, strict=True))

    def wait_ready(self, timeout: float | None = None) -> None:
        """Waits until every device has loaded the model, or failed to.

        Raises:
            KompiloError: `timeout` seconds have passed, or the pipeline is closed.
        """
        self._started().wait_ready(timeout)

    def statistics(self) -> dict[str, Any]:
        """What was done so far: counts of requests, and of each device its stages, busy seconds and state."""
        return self._started().statistics()

    def stage_seconds(self) -> list[list[float]]:
        """For each stage, route by route, the seconds that it took in its latest runs, the newest last."""
        return self._started().stage_seconds()

    @property
    def workers(self) -> dict[str, int | None]:
        """The process number of each device's worker; None while it has none."""
        return {str(w.device): w.pid for w in self._started().workers}

    def close(self) -> None:
        """Ends the workers; requests in flight fail. Closing twice does nothing."""
        with self._lock:
            self._closed = True
            executor, self._executor = self._executor, None
        if executor is not None and os.getpid() == self._process:
            executor.close()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Pipeline of {len(self._pieces)} pieces on {', '.join(map(str, self.devices))}>"

    def _started(self) -> _Executor:
        """The workers and their dispatcher, started at the first need."""
        with self._lock:
            if self._closed:
                raise _is_closed()
            if os.getpid() != self._process:
                raise KompiloError("expected the process that made the pipeline, found a forked child of it.")
            if self._executor is None:
                self._executor = _Executor(self)
                weakref.finalize(self, self._executor.close)
            return self._executor


class _Executor:
    """What runs behind a pipeline; it does not refer to the pipeline, whose end may end it."""

    def __init__(self, pipeline: Pipeline) -> None:
        outputs = [spec.name for spec in pipeline.outputs]
        routes = Routes(pipeline.placement, pipeline._pieces, outputs)
        self.slots = Slots(pipeline._slots_count)
        self.arena = Arena(places_of(pipeline._pieces), pipeline._slots_count)
        stages = [(list(stage.pieces), list(stage.writes)) for stage in routes.stages]
        self.workers = [
            WorkerProcess(
                number,
                device,
                Orders(
                    artifact=f"/proc/self/fd/{pipeline._file}",
                    cpus=list(device.cpus),
                    target=device.target,
                    arena=self.arena.descriptor,
                    slots=pipeline._slots_count,
                    places=as_json(self.arena.places),
                    stages=stages,
                ),
                (pipeline._file,),
            )
            for number, device in enumerate(pipeline.devices)
        ]
        times = StageTimes(routes.planned(pipeline.placement))
        arena = self.arena

        def collect(slot: int) -> Any:
            arrays = [arena.view(slot, name).copy() for name in outputs]
            return arrays[0] if len(arrays) == 1 else tuple(arrays)

        self.dispatcher = Dispatcher(self.workers, routes, times, self.slots, collect, pipeline._patience)
        self.dispatcher.start()

    def submit(
        self, inputs: Sequence[Any], arrays: Sequence[np.ndarray], priority: str, urgency: float, until: float | None
    ) -> Future[Any]:
        """A request with checked arrays; see Pipeline.submit."""
        if threading.current_thread() is self.dispatcher:
            raise UsageError(
                "submit: expected a thread of yours, found a callback of a future, which must not wait.",
                "hand the request to a thread of your own.",
            )
        slot = self.slots.take(priority, urgency, until)
        try:
            for spec, array in zip(inputs, arrays, strict=True):
                self.arena.view(slot, spec.name)[...] = array
        except BaseException:
            self.slots.give(slot)
            raise
        request = Request(Future(), slot, urgency, until)
        dispatcher = self.dispatcher

        def told(future: Future[Any]) -> None:
            if future.cancelled():
                dispatcher.accept(request)

        dispatcher.accept(request)
        request.future.add_done_callback(told)
        return request.future

    def wait_ready(self, timeout: float | None) -> None:
        until = None if timeout is None else time.monotonic() + timeout
        while not self.dispatcher.settled():
            if not self.dispatcher.is_alive():
                raise _is_closed()
            if until is not None and time.monotonic() > until:
                raise KompiloError(f"expected all devices to be ready within {timeout} s, found some that are not.")
            time.sleep(0.01)

    def stage_seconds(self) -> list[list[float]]:
        times = self.dispatcher.times
        return [times.latest(stage) for stage in range(len(self.dispatcher.routes.stages))]

    def statistics(self) -> dict[str, Any]:
        dispatcher = self.dispatcher
        devices = {
            str(worker.device): {
                "state": worker.state.name.lower(),
                "stages": dispatcher.done[worker.number],
                "busy_seconds": dispatcher.busy[worker.number],
                "problem": worker.problem,
            }
            for worker in self.workers
        }
        return {"requests": dict(dispatcher.counts), "devices": devices}

    def close(self) -> None:
        if self.dispatcher.is_alive():
            self.dispatcher.stop()
        self.arena.close()


def _is_closed() -> KompiloError:
    return KompiloError("the pipeline is closed.")


def _opened(source: str | os.PathLike[str] | bytes | Artifact) -> tuple[int, Artifact]:
    """An open file of the artifact, which workers read, and what it says; the file may be replaced or removed since."""
    if isinstance(source, Artifact):
        with tempfile.TemporaryDirectory(prefix="kompilo-") as folder:
            path = Path(folder) / "model.kpo"
            source.save(path)
            return _opened(path)
    if isinstance(source, bytes):
        descriptor = os.memfd_create("kompilo-artifact", os.MFD_CLOEXEC)
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(source)
    elif isinstance(source, str | os.PathLike):
        try:
            descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError) as error:
            raise ArtifactError(f"cannot open {os.fspath(source)!r}: {error}.") from None
    else:
        raise UsageError(f"Pipeline: expected a path, bytes or an Artifact, found {type(source).__name__}.")
    try:
        artifact, check = read_artifact(f"/proc/self/fd/{descriptor}")
        check()
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, artifact


def _slots_of(in_flight: int | None, devices: int) -> int:
    if in_flight is None:
        return _SLOTS + _SLOTS_A_DEVICE * devices
    if isinstance(in_flight, bool) or not isinstance(in_flight, int) or not 1 <= in_flight <= _MOST_SLOTS:
        raise UsageError(f"in_flight: expected an integer from 1 to {_MOST_SLOTS:,}, found {in_flight!r}.")
    return in_flight


def _devices(devices: str | Sequence[str] | None, placement: Placement | None) -> tuple[CoreSet, ...]:
    if devices is None:
        if placement is None:
            raise UsageError("Pipeline: expected devices or a plan, found neither.")
        return core_sets(placement.devices)
    found = core_sets(devices)
    if placement is not None and [str(d) for d in found] != list(placement.devices):
        planned = ", ".join(placement.devices)
        raise UsageError(f"devices: expected those of the plan, {planned}, found {', '.join(map(str, found))}.")
    return found


def _check_code(artifact: Artifact, device: CoreSet) -> None:
    """Raises UsageError or ArtifactError unless the artifact has code for a core set."""
    first = artifact.targets[0].segment
    part = replace(artifact, targets=tuple(t for t in artifact.targets if t.segment == first))
    choose_target(part, device.target or "cpu")
