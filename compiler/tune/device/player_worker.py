"""The process that has the GPU: it runs a bundle's candidates by their numbers, one after the other."""

from __future__ import annotations

import json
import os
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

from ...runtime.cuda_driver import Context
from ...runtime.hip_driver import driver_class
from ...schedule.op_spec import OpSpec
from ..bands import Truth, truth
from ..measure.operands import random_operands
from ..measure.timing import Sampling
from ..op_json import op_from_json
from .parts import pack, read_program
from .player import MANIFEST
from .runner import DeviceRun, RunFailure

FILES = "candidates.zip"
# Operators whose operands and results are kept: candidates of one come one after the other in rounds.
_KEPT_BYTES = 2 << 30


def serve(bundle: Path, device: int) -> None:
    """Answer numbers of candidates on standard input with a line of JSON each, on what was standard output."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints does not mix with the answers
    player = _Player(bundle, device)
    print(json.dumps({"ready": True}), file=replies, flush=True)
    for line in sys.stdin:
        print(json.dumps(player.measure(int(line))), file=replies, flush=True)


class _Player:
    """The bundle's files, and the operands of the operators at hand."""

    def __init__(self, bundle: Path, device: int):
        import zipfile

        manifest = json.loads((bundle / MANIFEST).read_text())
        self._candidates = manifest["candidates"]
        self._files = zipfile.ZipFile(bundle / FILES)
        driver = driver_class(manifest["kind"])()
        self._cache_bytes = driver.l2_bytes(device)
        self._context: Context = driver.context(device)
        self._operands: OrderedDict[OpSpec, tuple[list[Any], Truth]] = OrderedDict()
        self._best: dict[OpSpec, float] = {}

    def measure(self, number: int) -> dict[str, Any]:
        """Status, seconds and so on of a candidate, as a record has them; "lost" if the GPU must be asked anew."""
        candidate = self._candidates[number]
        op = op_from_json(candidate["op"])
        try:
            return self._measure(op, candidate["parts"])
        except RunFailure as failure:
            return {
                "status": failure.status,
                "reason": str(failure),
                "error": failure.error,
                "lost": failure.lost,
            }
        except MemoryError:
            return {"status": "out_of_memory", "reason": "this machine's memory is too small for the operands."}
        except Exception as error:
            return {"status": "run_failed", "reason": f"{type(error).__name__}: {error}"}

    def _measure(self, op: OpSpec, parts: dict[str, Any]) -> dict[str, Any]:
        arrays, expected = self._operands_of(op)
        inputs = [pack(parts, k, array, self._files.read) for k, array in enumerate(arrays)]
        output = tuple(int(d) for d in op.output.shape), op.output.dtype
        activations = [k for k, constant in enumerate(op.constant) if not constant]
        program = read_program(parts, self._files.read)
        with DeviceRun(self._context, program, inputs, output, activations, self._cache_bytes) as run:
            error = run.check(expected)
            timing = run.time(True, Sampling(rival=self._best.get(op)))
        self._best[op] = min(timing.seconds, self._best.get(op, timing.seconds))
        return {
            "status": "ok",
            "seconds": timing.seconds,
            "spread": timing.spread,
            "samples": timing.samples,
            "error": error,
        }

    def _operands_of(self, op: OpSpec) -> tuple[list[Any], Truth]:
        if op not in self._operands:
            inputs = random_operands(op, 0)
            self._operands[op] = inputs, truth(op, inputs)
            while len(self._operands) > 1 and self._bytes() > _KEPT_BYTES:
                self._operands.popitem(last=False)
        self._operands.move_to_end(op)
        return self._operands[op]

    def _bytes(self) -> int:
        return sum(sum(a.nbytes for a in inputs) + expected.nbytes for inputs, expected in self._operands.values())
