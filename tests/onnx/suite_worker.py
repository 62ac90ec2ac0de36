"""What runs in a worker process: one case after the other, from model to compared outputs."""

from __future__ import annotations

import os
import tempfile
import warnings
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.backend.test.runner import Runner
from suite_cases import Case

import kompilo
from kompilo.errors import KompiloError

# Cases whose outputs the suite computed with each step rounded to float16: they are further from the exact result than
# Kompilo's are, and 1e-3 is less than two steps of float16. Compared with four steps instead.
ROUNDED = {"test_attention_4d_causal_fp16": 2**-9, "test_attention_4d_causal_fp16_expanded": 2**-9}

# Cases with numbers that are 0, and in the outputs what is left of sums in float32: up to 2e-7 of 1 where 1e-7 is
# tolerated. Kompilo's are closer to 0.
NOISE = {"test_dft_inverse": 1e-6, "test_dft_inverse_opset19": 1e-6}

# Cases with random numbers, whose generator ONNX leaves open: outputs are compared where neither has a 0, that is where
# both have drawn the same.
RANDOM = frozenset(
    [
        *(f"test_bernoulli{kind}{form}" for kind in ("", "_double", "_seed") for form in ("", "_expanded")),
        *(f"test_training_dropout{kind}{mask}" for kind in ("", "_default") for mask in ("", "_mask")),
    ]
)
BY_CHANCE = "random numbers, whose generator ONNX leaves open; types, shapes and what does not depend on them agree"

# What is said of a case that passes with operators on the host.
ON_HOST = "on the host: "
PASS, WRONG, REFUSED, CRASH, HANG = "pass", "wrong", "refused", "crash", "hang"
DISPUTED = "disputed"


def serve(connection: Connection) -> None:
    """Say that this process has started, then answer cases with (state, detail) until the other end closes."""
    # What a dying process says goes nowhere: the runner sees its end.
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    warnings.simplefilter("ignore")
    connection.send("ready")
    with tempfile.TemporaryDirectory(prefix="kompilo-onnx-") as folder:
        while True:
            try:
                case = connection.recv()
            except EOFError:
                return
            connection.send(check(case, Path(folder)))


def check(case: Case, folder: Path) -> tuple[str, str]:
    """The state of a case, and why it is no pass: the message of a refusal, or the first line of what is wrong.

    For a pass the operators that stay on the host.
    """
    try:
        model = onnx.load_from_string(case.model)
        artifact = kompilo.compile(model, records=False)
        path = folder / "case.kpo"
        artifact.save(path)
        module = kompilo.load(path, threads=1)
        results = [list(module.run(_feeds(model, given, module)).values()) for given, _ in case.data_sets]
    except KompiloError as error:
        return REFUSED, error.message
    except Exception as error:
        return CRASH, f"{type(error).__name__}: {_last_line(error)}"
    for outputs, (_, wanted) in zip(results, case.data_sets, strict=True):
        try:
            wanted, outputs = _tensors(wanted, outputs)
            if case.name in RANDOM:
                wanted, outputs = _where_both(wanted, outputs)
            rtol, atol = ROUNDED.get(case.name, case.rtol), NOISE.get(case.name, case.atol)
            Runner.assert_similar_outputs(wanted, outputs, rtol, atol)
        except Exception as error:
            return WRONG, " ".join(line.strip() for line in str(error).splitlines() if line.strip())[:300]
    if case.name in RANDOM:
        return DISPUTED, BY_CHANCE
    operators = [o for segment in artifact.segments for o in segment.operators]
    return PASS, ON_HOST + "; ".join(f"{o.operator}: {o.reason}" for o in operators) if operators else ""


def _tensors(wanted: list[Any], outputs: list[Any]) -> tuple[list[Any], list[Any]]:
    """The tensors of both, out of sequences: the suite's own comparison takes no tensors without dimensions in them."""
    assert len(wanted) == len(outputs), f"expected {len(wanted)} values, found {len(outputs)}"
    pairs: tuple[list[Any], list[Any]] = ([], [])
    for one, other in zip(wanted, outputs, strict=True):
        if not isinstance(one, list):
            assert not isinstance(other, list), f"expected a tensor, found {other}"
            assert (one is None) == (other is None), f"expected {one}, found {other}"
        inner = _tensors(one, other) if isinstance(one, list) else ([one], [other]) if one is not None else ([], [])
        pairs[0].extend(inner[0])
        pairs[1].extend(inner[1])
    return pairs


def _where_both(wanted: list[Any], outputs: list[Any]) -> tuple[list[Any], list[Any]]:
    """Both with a 0 wherever one of them has one; at least a tenth of the elements are something else."""
    pairs: tuple[list[Any], list[Any]] = ([], [])
    for one, other in zip(wanted, outputs, strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype), f"expected {one.dtype}, found {other.dtype}"
        assert 10 * np.count_nonzero(other) >= other.size, "expected more than zeros"
        both = (one != 0) & (other != 0)
        pairs[0].append(np.where(both, one, np.zeros_like(one)))
        pairs[1].append(np.where(both, other, np.zeros_like(other)))
    return pairs


def _feeds(model: onnx.ModelProto, given: list[Any], module: Any) -> dict[str, Any]:
    stored = {tensor.name for tensor in model.graph.initializer}
    names = [info.name for info in model.graph.input if len(given) >= len(model.graph.input) or info.name not in stored]
    used = {spec.name for spec in module.inputs}
    return {name: array for name, array in zip(names, given, strict=False) if name in used}


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no details"
