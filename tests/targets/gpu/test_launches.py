"""What host functions do, as lists of launches: every template's, and a Hopper kernel with descriptors of tiles."""

from __future__ import annotations

import numpy as np
import pytest
import tvm

from kompilo.compiler.device_code import Kernel
from kompilo.compiler.errors import KompiloError
from kompilo.compiler.launches import Number, Place, Tiles
from kompilo.targets.gpu.launches import HostWalk
from kompilo.targets.gpu.lowering import split
from kompilo.targets.gpu.target import gpu_module
from kompilo.targets.gpu.templates.matmul_simt import MatmulSimt

from gpu import device_code, tir_hopper
from gpu_support import TARGET, matmul


def test_a_hopper_kernel_takes_descriptors_of_tiles():
    target = tvm.target.Target({"kind": "cuda", "arch": "sm_90a"}, host="llvm")
    program = device_code.lower(tir_hopper.module(), target, pipeline="tirx")
    kernels = {name: Kernel(name, tuple(d or "handle" for d in p), ()) for name, p in program.parameters.items()}
    (launch,) = HostWalk(program.host, kernels).launches
    arrays = [np.zeros((16, 64), "f2"), np.zeros((16, 64), "f2"), np.zeros((64, 64), "f4")]
    (wanted,) = device_code.HostWalk(program.host, arrays).launches
    assert (launch.grid, launch.block, launch.cluster) == (wanted.grid, wanted.block, wanted.cluster)
    assert launch.shared_bytes == wanted.dynamic_shared
    maps = [a for a in launch.arguments if isinstance(a, Tiles)]
    assert [m.place for m in maps] == [Place(0), Place(1)]
    for tiles in maps:
        assert (tiles.dtype, tiles.sizes, tiles.strides, tiles.box, tiles.steps) == (
            "float16", (64, 16), (128,), (64, 16), (1, 1)
        )  # fmt: skip
        assert tiles.swizzle == 3
    assert Place(2) in launch.arguments


def walk_of(op, config=None):
    template = MatmulSimt()
    candidate = template.build(op, TARGET.spec, config or template.match(op, TARGET.spec).default)
    return TARGET.device_program(candidate.standalone.with_attr("tirx.is_scheduled", True))


def test_one_launch_of_a_matmul():
    program = walk_of(matmul((70, 33), (33, 50), (70, 50)))
    (launch,) = program.launches
    assert (program.format, program.arch, program.scratch) == ("cubin", "sm_80", ())
    assert launch.arguments == (Place(0), Place(1), Place(2))
    assert launch.block[1:] == launch.cluster[:2] == (1, 1)
    assert np.prod(launch.grid) * np.prod(launch.block) > 0


def test_sizes_that_are_open_have_no_numbers():
    op = matmul(("n", 33), (33, 50), ("n", 50))
    with pytest.raises(KompiloError, match="measuring on a GPU: the value of .* is not known before the run"):
        walk_of(op)


def test_numbers_and_buffers_between_kernels():
    """Two kernels, a buffer between them, a loop of launches, and numbers as arguments."""
    from tvm.script import tirx as T

    @T.prim_func(s_tir=True)
    def main(x: T.Buffer((48,), "float32"), y: T.Buffer((48,), "float32")):
        T.func_attr({"global_symbol": "main", "tirx.noalias": True, "tirx.is_scheduled": True})
        kept = T.alloc_buffer((48,), "float32")
        for i in T.thread_binding(48, thread="threadIdx.x"):
            kept[i] = x[i] * T.float32(2)
        for i in T.thread_binding(48, thread="threadIdx.x"):
            y[i] = kept[i] + x[47 - i]

    parts = split(gpu_module(tvm.IRModule({"main": main}), TARGET), TARGET.tvm_target())
    assert len(parts.kernels) == 2
    program = TARGET.device_program(main)
    assert program.scratch == (192,)
    first, second = program.launches
    assert (first.block, second.block) == ((48, 1, 1), (48, 1, 1))
    places = {a for launch in program.launches for a in launch.arguments if isinstance(a, Place)}
    assert places == {Place(0), Place(1), Place(2)}
    assert not [a for launch in program.launches for a in launch.arguments if isinstance(a, Number)]
