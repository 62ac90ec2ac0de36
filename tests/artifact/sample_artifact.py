"""An artifact whose code is not code: enough for everything but running it."""

from __future__ import annotations

import numpy as np

from kompilo.compiler.artifact.artifact import Artifact, MemoryPlan, Operator, TargetCode
from kompilo.compiler.tensor_spec import TensorSpec


def sample_artifact() -> Artifact:
    """Two targets, four weights of several dtypes and ranks (one empty, one 0-d), a dynamic input."""
    conv = Operator("conv", "conv2d", "conv2d(1x3x8x8)", "conv2d_direct", "tile=6x16", "default", calls=2, flops=1000)
    wide = TargetCode(
        name="cpu",
        key="cpu-wide",
        triple="x86_64-linux-gnu",
        library=b"\x7fELF wide" * 50,
        cpu_features=("avx2", "avx512f"),
        operators=(conv,),
        memory=MemoryPlan((256, 1024), dynamic=True),
    )
    narrow = TargetCode("cpu:avx2", "cpu-narrow", "x86_64-linux-gnu", b"\x7fELF narrow", ("avx2",), weights=(0, 2))
    return Artifact(
        inputs=(TensorSpec("x", ("N", 3), "float32"), TensorSpec("ids", (), "int64")),
        outputs=(TensorSpec("y", ("N",), "float32"),),
        targets=(wide, narrow),
        weights=[
            np.arange(21, dtype=np.float32).reshape(3, 7),
            np.array(2.5, np.float64),
            np.zeros((0, 4), np.int8),
            np.array([True, False, True]),
        ],
        provenance={"model": "sample.onnx", "opset": 18, "options": {"precision": "fp32"}, "records": None},
    )
