"""Whole networks in float16, Kompilo's loader in turns with torch.compile: ResNet-50 and MiniLM, batches of 1 and 32.

A folder that travels has the artifacts without their weights, which are drawn here: only times mean something then.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rivals

FILE = "models.zip"
RUNTIME = "runtime"
# Behind the name of a network that could not be compiled: its entry tells why.
_FAILED = ", failed"
_TOKENS = ("input_ids", "attention_mask")
# Name -> the zoo's name, and shapes of inputs by batch.
NETWORKS: dict[str, tuple[str, Callable[[int], dict[str, tuple[int, ...]]]]] = {
    "ResNet-50": ("resnet50", lambda batch: {"gpu_0/data_0": (batch, 3, 224, 224)}),
    "MiniLM": (
        "minilm_l3",
        lambda batch: dict.fromkeys(_TOKENS, (batch, 128)),
    ),
}
BATCHES = (1, 32)
_ROUNDS = 21
_SAMPLE_S = 20e-3
_BATCH = ", batch "


def names(here: Path) -> list[str]:
    """The networks with their batches that the folder has, in the order in which `serve` answers."""
    if not (here / FILE).is_file():
        return []
    with zipfile.ZipFile(here / FILE) as files:
        return [entry.removesuffix(_FAILED) for entry in files.namelist()]


def serve(here: Path, kind: str, device: int, first: int, say: Callable[[str], None]) -> None:
    """Answer a line of JSON for each of `names` from number `first` on, on GPU number `device` of `kind`."""
    if (here / RUNTIME).is_dir():
        sys.path.insert(0, str(here / RUNTIME))
    torch = rivals.torch_on(device)  # its libraries of CUDA come first, so that both use the same
    with zipfile.ZipFile(here / FILE) as files:
        for entry in files.namelist()[first:]:
            data = files.read(entry)
            if entry.endswith(_FAILED):
                say(json.dumps({"name": entry.removesuffix(_FAILED), "problems": [f"not compiled: {data.decode()}"]}))
                continue
            name, _, batch = entry.rpartition(_BATCH)
            answer: dict[str, Any] = {"name": entry}
            try:
                ours = _ours(data, f"{kind}:{device}", torch)
                theirs = {"torch.compile": _compiled(torch, name, int(batch))} if torch is not None else {}
                answer["seconds"] = _in_turns({"ours": ours, **theirs})
            except Exception as error:  # whatever any of the libraries raises is this line's problem alone
                answer["problems"] = [_words(error)]
            say(json.dumps(answer))


def _words(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[-1][:300]}"


def _ours(data: bytes, device: str, torch: Any) -> Callable[[], float]:
    """Seconds of a call whose inputs and results stay on the GPU, as torch's do; without torch, inputs come there."""
    import kompilo
    from kompilo.compiler.artifact.artifact import Artifact, read_artifact

    found, _ = read_artifact(data)
    rng = np.random.default_rng(0)

    def drawn(weight: np.ndarray) -> np.ndarray:
        if weight.dtype.kind != "f" or weight.any():
            return np.array(weight)
        return (rng.standard_normal(weight.shape, np.float32) * 0.02).astype(weight.dtype)

    weights = [drawn(w) for w in found.weights]
    model = kompilo.load(Artifact(found.inputs, found.outputs, found.targets, weights, found.provenance), device=device)
    values = [_values(spec, rng) for spec in found.inputs]
    resident = values if torch is None else [torch.from_numpy(v).cuda() for v in values]
    model(*resident)

    def once() -> float:
        began = time.perf_counter()
        model(*resident)
        return time.perf_counter() - began

    return once


def _values(spec: Any, rng: np.random.Generator) -> np.ndarray:
    shape = tuple(int(d) for d in spec.shape)
    if np.dtype(spec.dtype).kind in "iu":
        return np.ones(shape, spec.dtype)
    return rng.standard_normal(shape, np.float32).astype(spec.dtype)


def _network(torch: Any, name: str, batch: int) -> tuple[Any, list[Any]]:
    """torch's network of that name on the GPU in float16, and inputs for it."""
    if name == "ResNet-50":
        from torchvision.models import resnet50

        x = torch.randn(batch, 3, 224, 224, device="cuda", dtype=torch.float16)
        made = resnet50().half().cuda().eval().to(memory_format=torch.channels_last)
        return made, [x.to(memory_format=torch.channels_last)]
    from transformers import BertConfig, BertModel

    layers = BertConfig(hidden_size=384, num_hidden_layers=3, num_attention_heads=12, intermediate_size=1536)
    ids = torch.ones(batch, 128, device="cuda", dtype=torch.int64)
    return BertModel(layers).half().cuda().eval(), [ids, ids]


def _compiled(torch: Any, name: str, batch: int) -> Callable[[], float]:
    """Seconds of a call of the network by torch.compile, waited for."""
    made, inputs = _network(torch, name, batch)
    compiled = torch.compile(made, mode="max-autotune")

    def once() -> float:
        began = time.perf_counter()
        with torch.no_grad():
            compiled(*inputs)
        torch.cuda.synchronize()
        return time.perf_counter() - began

    for _ in range(5):
        once()
    return once


def _in_turns(calls: dict[str, Callable[[], float]]) -> dict[str, float]:
    """Medians over rounds, in each of which every one is called as often as makes a sample."""
    counts = {}
    for name, call in calls.items():
        call()
        counts[name] = max(1, int(_SAMPLE_S / max(call(), 1e-6)))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(_ROUNDS):
        for name, call in calls.items():
            times[name].append(statistics.median(call() for _ in range(counts[name])))
    return {name: statistics.median(own) for name, own in times.items()}


def write(folder: Path, target: str, say: Callable[[str], None]) -> bool:
    """Compile the networks for `target` into `folder`; their weights become zeros, which compress.

    One that cannot be compiled leaves the reason in its place, which `serve` answers; returns whether all could.
    """
    whole = True
    with zipfile.ZipFile(folder / FILE, "w", zipfile.ZIP_DEFLATED) as files:
        for name, (zoo_name, shapes) in NETWORKS.items():
            for batch in BATCHES:
                began = time.monotonic()
                entry = f"{name}{_BATCH}{batch}"
                try:
                    data = _artifact(zoo_name, batch, shapes(batch), target, folder / "model.kpo")
                except Exception as error:  # a defect of the compiler's too costs this network alone
                    whole = False
                    files.writestr(entry + _FAILED, _words(error))
                    say(f"{entry}: not compiled: {_words(error)}")
                    continue
                files.writestr(entry, data)
                say(f"{entry}: compiled in {time.monotonic() - began:.0f} s")
    return whole


def _artifact(zoo_name: str, batch: int, shapes: Mapping[str, tuple[int, ...]], target: str, scratch: Path) -> bytes:
    """The bytes of an artifact without weights of a network of the zoo; `scratch` is where it is written meanwhile."""
    import onnx
    from batch import with_batch

    import kompilo
    from kompilo.compiler.artifact.artifact import Artifact
    from kompilo.compiler.model_source import zoo

    model = with_batch(onnx.load(zoo().find(zoo_name).path()), batch)
    made = kompilo.compile(model, target=target, inputs=shapes, precision="fp16")
    empty = [np.zeros_like(w) if w.dtype.kind == "f" else w for w in made.weights]
    Artifact(made.inputs, made.outputs, made.targets, empty, made.provenance).save(scratch)
    data = scratch.read_bytes()
    scratch.unlink()
    return data
