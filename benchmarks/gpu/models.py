"""Whole networks in float16, Kompilo's loader in turns with torch.compile: ResNet-50 and MiniLM, batches of 1 and 32.

A folder that travels has the artifacts without their weights, which are drawn here: only times mean something then.
"""

from __future__ import annotations

import io
import json
import statistics
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

FILE = "models.zip"
RUNTIME = "runtime"
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


def serve(here: Path, say: Callable[[str], None]) -> None:
    """Answer a line of JSON for each network and batch that the folder has."""
    if (here / RUNTIME).is_dir():
        sys.path.insert(0, str(here / RUNTIME))
    if not (here / FILE).is_file():
        return
    rival = _torch()  # its libraries of CUDA come first, so that both use the same
    with zipfile.ZipFile(here / FILE) as files:
        for name in NETWORKS:
            for batch in BATCHES:
                if f"{name} {batch}" not in files.namelist():
                    continue
                answer: dict[str, Any] = {"name": f"{name}, batch {batch}"}
                try:
                    ours = _ours(files.read(f"{name} {batch}"))
                    theirs = {"torch.compile": rival(name, batch)} if rival is not None else {}
                    answer["seconds"] = _in_turns({"ours": ours, **theirs})
                except Exception as error:  # whatever any of the libraries raises is this line's problem alone
                    answer["problems"] = [f"{type(error).__name__}: {str(error).strip().splitlines()[-1][:300]}"]
                say(json.dumps(answer))


def _ours(data: bytes) -> Callable[[], float]:
    """Seconds of a call whose inputs and results stay on the GPU, as torch's do."""
    import kompilo
    from kompilo.compiler.artifact.artifact import Artifact, read_artifact

    found, _ = read_artifact(data)
    rng = np.random.default_rng(0)

    def drawn(weight: np.ndarray) -> np.ndarray:
        if weight.dtype.kind != "f" or weight.any():
            return np.array(weight)
        return (rng.standard_normal(weight.shape, np.float32) * 0.02).astype(weight.dtype)

    weights = [drawn(w) for w in found.weights]
    model = kompilo.load(Artifact(found.inputs, found.outputs, found.targets, weights, found.provenance), device="cuda")
    values = [_values(spec, rng) for spec in found.inputs]
    resident = _on_the_gpu(values)
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


def _on_the_gpu(values: list[np.ndarray]) -> list[Any]:
    """Tensors of torch where it is there; else arrays, whose way to the GPU is then in the times."""
    try:
        import torch
    except ImportError:
        return values
    return [torch.from_numpy(v).cuda() for v in values]


def _torch() -> Callable[[str, int], Callable[[], float]] | None:
    """Makes a network's call by torch.compile, waited for; None without torch."""
    try:
        import torch
    except ImportError:
        return None

    def network(name: str, batch: int) -> tuple[Any, list[Any]]:
        if name == "ResNet-50":
            from torchvision.models import resnet50

            x = torch.randn(batch, 3, 224, 224, device="cuda", dtype=torch.float16)
            made = resnet50().half().cuda().eval().to(memory_format=torch.channels_last)
            return made, [x.to(memory_format=torch.channels_last)]
        from transformers import BertConfig, BertModel

        layers = BertConfig(hidden_size=384, num_hidden_layers=3, num_attention_heads=12, intermediate_size=1536)
        ids = torch.ones(batch, 128, device="cuda", dtype=torch.int64)
        return BertModel(layers).half().cuda().eval(), [ids, ids]

    def make(name: str, batch: int) -> Callable[[], float]:
        made, inputs = network(name, batch)
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

    return make


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


def write(folder: Path, target: str, say: Callable[[str], None]) -> None:
    """Compile the networks for `target` into `folder`; their weights become zeros, which compress."""
    import kompilo
    from kompilo.compiler.artifact.artifact import Artifact

    with zipfile.ZipFile(folder / FILE, "w", zipfile.ZIP_DEFLATED) as files:
        for name, (zoo_name, shapes) in NETWORKS.items():
            for batch in BATCHES:
                began = time.monotonic()
                made = kompilo.compile(f"zoo:{zoo_name}", target=target, inputs=shapes(batch), precision="fp16")
                empty = [np.zeros_like(w) if w.dtype.kind == "f" else w for w in made.weights]
                path = folder / "model.kpo"
                Artifact(made.inputs, made.outputs, made.targets, empty, made.provenance).save(path)
                files.writestr(f"{name} {batch}", io.BytesIO(path.read_bytes()).getvalue())
                path.unlink()
                say(f"{name}, batch {batch}: compiled in {time.monotonic() - began:.0f} s")
