"""The nine CNN topologies that the `onnx` package carries, with seeded random weights in place of its constant fills.

The package's files (backend/test/data/light) keep the real networks' graphs but fill every large weight with 0.02.
`build` gives each parameter a value for its role (filter, bias, BatchNorm statistic, scale, shift), so that results
depend on the image and no softmax saturates. The same seed gives the same bytes on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..compiler.errors import ModelError
from .cache import cached, sha256_of
from .cnn_weights import MOMENT_RULES, NORMALISED, Moments, draw_filter, draw_vector
from .zoo_model import ModelInput, ZooModel

if TYPE_CHECKING:
    import onnx

SEED = 0
_OPSET, _IR_VERSION = 9, 8


@dataclass(frozen=True)
class LightCnn:
    """The recipe of one CNN: its file in the onnx package, and the SHA-256 of that file and of the result.

    `logit_gain` scales the last layer so that logits deviate by about 2 (measured): the softmax then has clear winners
    and still moves with every class.
    """

    file: str
    topology_sha256: str
    sha256: str
    logit_gain: float

    def get(self) -> Path:
        """The cached, verified model, built on first use."""
        return cached(f"zoo/{self.file.removeprefix('light_')}", self._build, self.sha256)

    def describe(self) -> str:
        """Where the model comes from, in one line."""
        return f"topology onnx/backend/test/data/light/{self.file}, random weights of seed {SEED}"

    def _build(self, target: Path) -> None:
        target.write_bytes(build(self.topology(), SEED, self.logit_gain))

    def topology(self) -> Path:
        """The file inside the installed onnx package; ModelError if it is not the expected one."""
        spec = find_spec("onnx")
        if spec is None or spec.origin is None:
            raise ModelError("the zoo's CNN topologies: expected the package onnx, found none.", "pip install onnx")
        path = Path(spec.origin).parent / "backend/test/data/light" / self.file
        found = sha256_of(path) if path.exists() else "no such file"
        if found != self.topology_sha256:
            raise ModelError(
                f"{self.file} of the installed onnx package: expected SHA-256 {self.topology_sha256}, found {found}.",
                "install an onnx release from 1.17 to 1.23.",
            )
        return path


def build(topology: Path, seed: int, logit_gain: float) -> bytes:
    """The serialized model: `topology` with every float parameter drawn anew from `seed`."""
    import onnx

    model = onnx.load(topology)
    parameters = _Parameters(model.graph, seed, logit_gain)
    tensors = parameters.draw()
    graph = model.graph
    nodes = [n for n in graph.node if n.op_type != "ConstantOfShape"]
    inputs = [i for i in graph.input if i.name not in parameters.initializers]
    used = {name for n in nodes for name in n.input}
    kept = [t for name, t in parameters.initializers.items() if name in used and name not in tensors]
    result = onnx.helper.make_graph(nodes, graph.name, inputs, list(graph.output))
    result.initializer.extend(kept)
    for name, value in tensors.items():
        tensor = result.initializer.add(name=name, dims=value.shape, data_type=onnx.TensorProto.FLOAT)
        tensor.raw_data = value.tobytes()
    built = onnx.helper.make_model(result, opset_imports=[onnx.helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
    built.producer_name = "kompilo zoo"
    return built.SerializeToString(deterministic=True)


class _Parameters:
    """Finds every float parameter of a graph, its shape and its role, and draws it."""

    def __init__(self, graph: onnx.GraphProto, seed: int, logit_gain: float):
        import onnx

        self.graph = graph
        self.seed = seed
        self.logit_gain = logit_gain
        self.initializers = {t.name: t for t in graph.initializer}
        self.shapes: dict[str, tuple[int, ...]] = {
            t.name: tuple(t.dims) for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT
        }
        for node in graph.node:
            if node.op_type == "ConstantOfShape":
                shape = onnx.numpy_helper.to_array(self.initializers[node.input[0]])
                self.shapes[node.output[0]] = tuple(int(d) for d in shape)
        last = [n for n in graph.node if n.op_type in ("Conv", "Gemm")][-1]
        made_from = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "Reshape"}
        self.last_filter = made_from.get(last.input[1], last.input[1])

    def draw(self) -> dict[str, np.ndarray]:
        """Parameter name -> value, in the order in which the graph uses them."""
        moments: dict[str, Moments] = {}
        values: dict[str, np.ndarray] = {}
        reshaped: dict[str, str] = {}
        for node in self.graph.node:
            if node.op_type in ("Unsqueeze", "Reshape") and node.input[0] in self.shapes:
                reshaped[node.output[0]] = node.input[0]
                continue
            sources = [reshaped.get(name, name) for name in node.input]
            reads = [moments.get(name, NORMALISED) for name in sources if name not in self.shapes]
            for position, name in enumerate(sources):
                if name in self.shapes:
                    values[name] = self._value(node.op_type, position, name, reads[0])
            rule = MOMENT_RULES.get(node.op_type, lambda first, *rest: first)
            if reads:
                moments[node.output[0]] = rule(*reads)
        return values

    def _value(self, op: str, position: int, name: str, reads: Moments) -> np.ndarray:
        vector = partial(draw_vector, self.seed, name, self.shapes[name])
        if op in ("Conv", "Gemm") and position == 1:
            gain = self.logit_gain if name == self.last_filter else 1.0
            return draw_filter(self.seed, name, self.shapes[name], reads, gain)
        roles = {
            ("Conv", 2): (0.0, 0.2),
            ("Gemm", 2): (0.0, 0.2),
            ("BatchNormalization", 1): (1.0, 0.3),
            ("BatchNormalization", 2): (0.0, 0.3),
            ("BatchNormalization", 3): (reads.mean, 0.3 * reads.std),
            ("BatchNormalization", 4): (reads.variance, 0.5 * reads.variance),
            ("Mul", 1): (1.0, 0.3),
            ("Add", 1): (0.0, 0.3),
        }
        if (op, position) not in roles:
            raise ModelError(f"zoo topology: expected no parameter at operand {position} of {op}, found {name}.")
        centre, spread = roles[op, position]
        return vector(centre, spread)


def _model(name: str, summary: str, input_name: str, recipe: LightCnn) -> ZooModel:
    image = (1, 3, 224, 224)
    return ZooModel(
        name=name,
        summary=f"{summary}; random weights",
        license="Apache-2.0",
        source=recipe,
        inputs=(ModelInput(input_name, image, "float32", image),),
    )


MODELS = (
    _model(
        "alexnet",
        "AlexNet image classifier, 0.7 GMAC",
        "data_0",
        LightCnn(
            "light_bvlc_alexnet.onnx",
            "2afa78cef5a88aed9d6e3d63fb92bd330c9177ac150d19189c6b3e7204ba0212",
            "23a454d34a3d6e610c3c78303b5c6a0d6271ae38d882bd0cb593e07d44e42c5c",
            2.3,
        ),
    ),
    _model(
        "densenet121",
        "DenseNet-121 image classifier, 2.9 GMAC",
        "data_0",
        LightCnn(
            "light_densenet121.onnx",
            "49ddb5712797d6164f1d864bedaad927de4f3909ad1b4ba390a92c2f8150e9f6",
            "af0d5f865306ab67fd050d1333c26713a3969603dc71d9072962d55fa7990292",
            0.4,
        ),
    ),
    _model(
        "inception_v1",
        "Inception-v1 (GoogLeNet) image classifier, 1.6 GMAC",
        "data_0",
        LightCnn(
            "light_inception_v1.onnx",
            "bb7a0e6c370c709f5615eeef961b43628de13d0009ae4d6f4bfb0d5aea5d8270",
            "2648bcd2658294ed727a83cfc3a08c0e4f07d372da850abf62fc4502ac2698f0",
            68.0,
        ),
    ),
    _model(
        "inception_v2",
        "Inception-v2 image classifier, 2.0 GMAC",
        "data_0",
        LightCnn(
            "light_inception_v2.onnx",
            "224d77d55b26559a959db627c3f417a623fbf3b3000d25f0939327aa935d933f",
            "2efdad5cdda2b3f2c27f99bf3c83ba3b21abaf5cea74551c7084c34f7efd4e14",
            0.18,
        ),
    ),
    _model(
        "resnet50",
        "ResNet-50 image classifier, 4.1 GMAC",
        "gpu_0/data_0",
        LightCnn(
            "light_resnet50.onnx",
            "05e77a5c9c9ce0913f549a50d6ebaced5e0ff6817b61e09bae26e4c5bd9055e4",
            "3a538d9c714a61f9e1593dafac86fe118fc7f062258361f47ccafca0f78f8b95",
            0.44,
        ),
    ),
    _model(
        "shufflenet",
        "ShuffleNet image classifier with grouped convolutions, 0.1 GMAC",
        "gpu_0/data_0",
        LightCnn(
            "light_shufflenet.onnx",
            "c6f406d62be36d6b4572542c0950a2abd59f56237068793290680bba89fbafe5",
            "4cb879f3e6d73834f050f091086cbfab88a061d137937cd50e91412d95be67b1",
            1.6,
        ),
    ),
    _model(
        "squeezenet",
        "SqueezeNet 1.1 image classifier, 0.35 GMAC",
        "data_0",
        LightCnn(
            "light_squeezenet.onnx",
            "770b0f3c8623e18bf58b53754d710051b4c268248422142980a132bbe6dfe908",
            "1f62456bf43c6f022eec637348469d3f0988e751eda62b8ff7e980ef766737a3",
            8.0,
        ),
    ),
    _model(
        "vgg19",
        "VGG-19 image classifier, 19.6 GMAC, 574 MB",
        "data_0",
        LightCnn(
            "light_vgg19.onnx",
            "8e547d732b3a3d66eeb8fa64a026adb994d3db552f0bbd52e436d06300d89afe",
            "2d6d5cad6873d16b07c2a2c244aac651d66d84e666a7b9ece991a4811d2320e4",
            4.2,
        ),
    ),
    _model(
        "zfnet512",
        "ZFNet-512 image classifier, 1.5 GMAC",
        "gpu_0/data_0",
        LightCnn(
            "light_zfnet512.onnx",
            "6444bb58b98c3d14f551a3bdb83eea9e5db7e147790db3115c447e9c9a8338b0",
            "8cfa55b4ead46b9b185fa435893df02e5dccd563e012b02c93ef0b652f302073",
            6.5,
        ),
    ),
)
