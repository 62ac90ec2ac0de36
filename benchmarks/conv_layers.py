"""Every convolution of a model as it runs within it: our kernels against ONNX Runtime's, as a markdown table.

    python benchmarks/conv_layers.py [MODEL.onnx|zoo:NAME ...] [--threads 1] [--rounds 20]

Kernels measured alone find their weights in cache, which they never do within a model. So all convolutions of a model
run one after the other, each with weights of its own and the activations in two buffers that take turns, and each is
timed there; ONNX Runtime's profiler gives the same for its own. The least time of all rounds counts. Open dimensions
are taken as 1. Our kernels have the epilogue bias and ReLU, ONNX Runtime's whatever it fused.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import numpy as np
import onnx

# Layers are equal, for the table, if these are: channels in and out, kernel, groups' width, output size.
Key = tuple[int, ...]


@dataclass
class Layer:
    """Convolutions of equal shape: how many, and the sum of their times in seconds."""

    name: str
    flops: int
    template: str
    config: str
    count: int = 0
    ours: float = 0.0
    theirs: float = 0.0


@dataclass
class Call:
    """One convolution of the model: its layer, kernel, arguments, and least time so far."""

    key: Key
    kernel: object
    arguments: list[object]
    best: float = field(default=float("inf"))


def main() -> None:
    """Print one table for each model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=["zoo:resnet50", "zoo:vgg19", "zoo:densenet121"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    # TVM reads it when its thread pool starts.
    os.environ["TVM_NUM_THREADS"] = str(options.threads)
    for name in options.models:
        layers = measure(load(name), options.threads, options.rounds)
        print(f"\n## {name}, {options.threads} thread(s)\n\n{table(layers)}")


def load(name: str) -> onnx.ModelProto:
    """A model file or zoo model, with the shapes of all values."""
    from kompilo.models import zoo

    path = zoo.find(name.removeprefix("zoo:")).path() if name.startswith("zoo:") else Path(name)
    return onnx.shape_inference.infer_shapes(onnx.load(path))


def measure(model: onnx.ModelProto, threads: int, rounds: int) -> list[Layer]:
    """All layers of `model`, in order, measured in rounds that alternate with ONNX Runtime's."""
    layers, calls = compile_layers(model)
    session, feeds = profiled_session(model, threads)
    for _ in range(rounds):
        session.run(None, feeds)
        for call in calls:
            start = time.perf_counter()
            call.kernel(*call.arguments)
            call.best = min(call.best, time.perf_counter() - start)
    for call in calls:
        layers[call.key].ours += call.best
    for key, seconds in profiled_convolutions(Path(session.end_profiling())):
        if key in layers:
            layers[key].theirs += seconds
    return list(layers.values())


def convolutions(model: onnx.ModelProto) -> Iterator[tuple[Key, object]]:
    """(key, OpSpec) of every Conv node with constant weights, in NHWC and with bias and ReLU behind it."""
    from kompilo.compiler.schedule.op_spec import OpSpec, Step, TensorType

    graph = model.graph
    values = [*graph.value_info, *graph.input, *graph.output]
    shapes = {v.name: [d.dim_value or 1 for d in v.type.tensor_type.shape.dim] for v in values}
    weights = {t.name: list(t.dims) for t in graph.initializer}
    for node in graph.node:
        if node.op_type != "Conv" or node.input[1] not in weights or len(weights[node.input[1]]) != 4:
            continue
        given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        (n, c, h, w), (_, o, oh, ow) = shapes[node.input[0]], shapes[node.output[0]]
        weight = weights[node.input[1]]
        attrs = {
            "data_layout": "NHWC",
            "dilation": tuple(given.get("dilations", (1, 1))),
            "groups": given.get("group", 1),
            "padding": tuple(given.get("pads", (0, 0, 0, 0))),
            "strides": tuple(given.get("strides", (1, 1))),
        }
        inputs = ((n, h, w, c), tuple(weight), (o,))
        result = TensorType((n, oh, ow, o), "float32")
        steps = (Step("add", ("anchor", "i2"), "float32"), Step("nn.relu", ("s0",), "float32"))
        types = tuple(TensorType(s, "float32") for s in inputs)
        yield (
            (*weight, oh, ow),
            OpSpec("conv2d", types, (False, True, True), tuple(sorted(attrs.items())), result, result, steps),
        )


def compile_layers(model: onnx.ModelProto) -> tuple[dict[Key, Layer], list[Call]]:
    """The distinct layers of `model` and a call for each of its convolutions, on activations in two shared buffers."""
    import tvm
    import tvm_ffi

    from kompilo.compiler.schedule.flops import flops
    from kompilo.compiler.schedule.selection import Selector
    from kompilo.targets.cpu.target import CpuTarget

    target = CpuTarget.from_preset(None)
    selector = Selector(target)
    specs = list(convolutions(model))
    largest = max(prod(t.shape) for _, op in specs for t in (op.inputs[0], op.anchor_type))
    buffers = [_aligned(largest), _aligned(largest)]
    rng = np.random.default_rng(0)
    layers: dict[Key, Layer] = {}
    kernels: dict[object, object] = {}
    calls = []
    for key, op in specs:
        choice = selector.choose(op)
        candidate = selector.candidate(choice)
        if op not in kernels:
            module = tvm.IRModule({"main": candidate.func.with_attr("global_symbol", "main")})
            kernels[op] = tvm.compile(module, target.tvm_target())["main"]
        config = str(choice.config)
        layer = layers.setdefault(key, Layer(_name(op), flops(op) or 0, choice.template.name, config))
        layer.count += 1
        source, sink = buffers[len(calls) % 2], buffers[1 - len(calls) % 2]
        constants = [rng.standard_normal(t.shape, dtype=np.float32) for t in op.inputs[1:]]
        packed = [candidate.packers.get(k, np.asarray)(a) for k, a in enumerate(constants, 1)]
        views = [b[: prod(t.shape)].reshape(t.shape) for b, t in ((source, op.inputs[0]), (sink, op.anchor_type))]
        data, out = (tvm_ffi.from_dlpack(v) for v in views)
        calls.append(Call(key, kernels[op], [data, *(tvm.runtime.tensor(p) for p in packed), out]))
    return layers, calls


def _aligned(count: int) -> np.ndarray:
    """`count` random float32 on a 64-byte boundary, as kernels expect."""
    raw = np.empty(count + 16, np.float32)
    start = -raw.ctypes.data % 64 // 4
    raw[:] = np.random.default_rng(1).standard_normal(raw.size, dtype=np.float32)
    return raw[start : start + count]


def _name(op: object) -> str:
    data, weight, attrs = op.inputs[0].shape, op.inputs[1].shape, dict(op.attrs)
    groups = f" g{attrs['groups']}" if attrs["groups"] > 1 else ""
    return f"{data[1]}x{data[2]} {data[3]}->{weight[0]} {weight[2]}x{weight[3]} s{attrs['strides'][0]}{groups}"


def profiled_session(model: onnx.ModelProto, threads: int) -> tuple[object, dict[str, np.ndarray]]:
    """An ONNX Runtime session that profiles its nodes, and random inputs for it."""
    import onnxruntime as ort

    ort.set_default_logger_severity(4)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_profiling = True
    options.profile_file_prefix = str(Path(tempfile.mkdtemp()) / "profile")
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    feeds = {}
    for value in session.get_inputs():
        shape = [d if isinstance(d, int) else 1 for d in value.shape]
        feeds[value.name] = rng.standard_normal(shape, dtype=np.float32)
    return session, feeds


def profiled_convolutions(profile: Path) -> Iterator[tuple[Key, float]]:
    """(key, least seconds) of every convolution node in a profile of ONNX Runtime."""
    best: dict[str, float] = {}
    keys: dict[str, Key] = {}
    for event in json.loads(profile.read_text()):
        arguments = event.get("args", {})
        if arguments.get("op_name") not in ("Conv", "FusedConv") or not event["name"].endswith("_kernel_time"):
            continue
        name = event["name"]
        best[name] = min(best.get(name, float("inf")), event["dur"] / 1e6)
        weight = next(iter(arguments["input_type_shape"][1].values()))
        result = next(iter(arguments["output_type_shape"][0].values()))
        keys[name] = (*weight, *result[2:4])
    yield from ((keys[name], seconds) for name, seconds in best.items())


def table(layers: Sequence[Layer]) -> str:
    """Markdown: times of all convolutions of a layer, rates as if they were direct, ratio theirs / ours."""
    rows = ["| layer | n | ms | ORT ms | GF/s | ORT GF/s | ratio | template |", "|---|--:|--:|--:|--:|--:|--:|---|"]
    for x in layers:
        total = x.flops * x.count / 1e9
        rates = f"{total / x.ours:.0f} | {total / x.theirs:.0f}" if x.theirs else f"{total / x.ours:.0f} | -"
        ratio = f"{x.theirs / x.ours:.2f}" if x.theirs else "-"
        times = f"{x.ours * 1e3:.3f} | {x.theirs * 1e3:.3f}"
        rows.append(f"| {x.name} | {x.count} | {times} | {rates} | {ratio} | {x.template} {x.config} |")
    ours, theirs = sum(x.ours for x in layers), sum(x.theirs for x in layers)
    rows.append(
        f"| all | {sum(x.count for x in layers)} | {ours * 1e3:.1f} | {theirs * 1e3:.1f} | | | {theirs / ours:.2f} | |"
    )
    return "\n".join(rows)


if __name__ == "__main__":
    main()
