"""Products whose tiles are shared out among blocks: parts of K, and steps dealt out evenly; added up always alike."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from conv_cases import conv2d, reference
from tensor_core_cases import Typed, cubin, random_operands, run, small_gpu
from tvm import tirx

from kompilo.compiler.schedule.op_spec import Step
from kompilo.targets.cuda.compilers import find_compilers
from kompilo.targets.cuda.target import CudaTarget
from kompilo.targets.gpu.resources import resources_of_cubin
from kompilo.targets.gpu.templates.gemm_index import Bound
from kompilo.targets.gpu.templates.gemm_shares import EVENLY, Share, Sharing
from kompilo.targets.gpu.templates.gemm_tile import GemmTile
from kompilo.targets.gpu.templates.matmul_simt import MatmulSimt
from kompilo.targets.gpu.templates.matrix_core_matmul import MatrixCoreMatmul
from kompilo.targets.gpu.templates.tensor_core_conv2d import TensorCoreConv2D
from kompilo.targets.gpu.templates.tensor_core_matmul import PipelineMatmul, TensorCoreMatmul, WarpgroupMatmul
from kompilo.targets.gpu.templates.tensor_core_pipeline_tile import PipelineTile
from kompilo.targets.gpu.templates.tensor_core_tile import TensorTile
from kompilo.targets.rocm.target import RocmTarget
from kompilo.targets.shared.tir_loops import i64, seq

from gpu.shim_support import needs_shim
from gpu_support import matmul, relative_error

BIAS_RELU = (Step("add", ("anchor", "i2"), "float32"), Step("nn.relu", ("s0",), "float32"))
# Three SMs, so that tiles are no multiple of what runs at once.
A100, H200 = small_gpu("a100", 3), small_gpu("h200", 3)

BIASED = matmul((70, 300), (300, 40), (70, 40), True, steps=BIAS_RELU, extra=((40,),))
IMAGE = conv2d((1, 9, 9, 32), (24, 32, 3, 3), padding=(1, 1, 1, 1), epilogue=("bias", "residual"))
GROUPS = conv2d((1, 7, 7, 32), (48, 16, 3, 3), groups=2, padding=(1, 1, 1, 1), epilogue=("bias4", "hardswish"))


def biased(a, b, c):
    return np.maximum(a @ b + c, 0)


def product(a, b):
    return a @ b


CASES = {
    "vectors_parts": (MatmulSimt(), BIASED, biased, GemmTile(32, 32, 8, 4, 4, 3).config(), A100),
    "parts": (
        TensorCoreMatmul(), Typed(BIASED, result="float16"), biased, TensorTile(32, 32, 32, 1, 2, 3, 4).config(), A100
    ),
    "parts_of_an_image": (
        TensorCoreConv2D(), Typed(GROUPS, result="float16"), None, TensorTile(32, 32, 32, 1, 2, 3, 2).config(), A100
    ),
    "evenly": (
        TensorCoreMatmul(), Typed(BIASED, result="float16"), biased, TensorTile(32, 32, 32, 1, 2, 3, EVENLY).config(),
        A100,
    ),
    "evenly_int8": (
        TensorCoreMatmul(), Typed(matmul((2, 50, 139), (2, 139, 36), (2, 50, 36)), "int8"), product,
        TensorTile(16, 32, 64, 1, 1, 2, EVENLY).config(), small_gpu("a100", 1),
    ),
    "warpgroups_evenly": (
        WarpgroupMatmul(), Typed(matmul((130, 400), (400, 72), (130, 72), True)), product,
        TensorTile(64, 64, 64, 4, 1, 4, EVENLY).config(), H200,
    ),
    "pipeline": (
        PipelineMatmul(), Typed(matmul((130, 400), (400, 72), (130, 72), True), result="float16"), product,
        PipelineTile(64, 64, 1, 3, split=3).config(), H200,
    ),
    "pipeline_evenly": (
        PipelineMatmul(), Typed(matmul((260, 264), (264, 72), (260, 72), True)), product,
        PipelineTile(64, 64, 1, 3, split=EVENLY).config(), small_gpu("h200", 1),
    ),
}  # fmt: skip


@needs_shim
@pytest.mark.parametrize("name", CASES)
def test_products(name):
    template, case, compute, config, target = CASES[name]
    op, tolerance = (case.spec, case.tolerance) if isinstance(case, Typed) else (case, 1e-5)
    operands = random_operands(op)
    plain = case.op if isinstance(case, Typed) else op
    expected = compute(*operands) if compute else reference(plain, operands)
    first, *others = run(template, op, operands, expected.shape, config, target)
    assert relative_error(first, expected) <= tolerance
    # Whatever block was done first.
    assert all(np.array_equal(first, other) for other in others)


@pytest.mark.parametrize(
    ("tiles", "steps", "blocks"), [(7, 5, 3), (4, 9, 4), (10, 4, 3), (1, 8, 3), (23, 7, 4), (5, 1, 8)]
)
def test_even_shares_cover_every_step_once(tiles, steps, blocks):
    """The arithmetic of the kernels, run: each step of each tile is one block's, and parts are found in their order."""
    sharing = Sharing(tiles, steps, EVENLY, blocks)
    shares, parts = shares_of(sharing)
    done = [(tile, step) for tile, first, count, *_ in shares for step in range(first, first + count)]
    assert sorted(done) == [(tile, step) for tile in range(tiles) for step in range(steps)]
    assert all(bool(whole) == (count == steps) for _, _, count, whole, _ in shares)
    slots = [slot for *_, whole, slot in shares if not whole]
    assert len(set(slots)) == len(slots)
    assert all(slot < sharing.slots for slot in slots)
    first, count = sharing.split_tiles
    assert sorted(parts) == list(range(first, first + count))
    for tile, found in parts.items():
        own = sorted((begin, slot, length) for t, begin, length, _, slot in shares if t == tile)
        assert len(own) == len(found)
        assert [slot for _, slot, _ in own] == found or own[0][2] == steps


def shares_of(sharing: Sharing) -> tuple[list[tuple[int, ...]], dict[int, list[int]]]:
    """What blocks do, as (tile, first step, steps, whole, slot), and the slots that are added up, by tile."""
    width, most = 5, sharing.blocks * (sharing.tiles + 2)
    found, counts = tirx.decl_buffer((most, width), "int64"), tirx.decl_buffer((1,), "int64")
    slots, numbers = tirx.decl_buffer((sharing.tiles, most), "int64"), tirx.decl_buffer((sharing.tiles,), "int64")
    block, tile, part = tirx.Var("block", "int64"), tirx.Var("tile", "int64"), tirx.Var("part", "int64")
    indices, zero = Bound(), i64(0)

    def noted(share: Share) -> tirx.Stmt:
        place = tirx.BufferLoad(counts, [zero])
        values = (share.tile, share.first, share.steps, share.whole, share.slot)
        stores = [tirx.BufferStore(found, i64(v).astype("int64"), [place, i64(k)]) for k, v in enumerate(values)]
        return seq(*stores, tirx.BufferStore(counts, place + 1, [zero]))

    def over(var: tirx.Var, start: int, count: object, body: tirx.Stmt) -> tirx.Stmt:
        return tirx.For(var, i64(start), i64(count), tirx.ForKind.SERIAL, body)

    naming, count, slot = sharing.parts_of(tile, indices)
    first, split = sharing.split_tiles
    listed = over(part, 0, count, tirx.BufferStore(slots, slot(part), [tile, part]))
    body = seq(
        over(block, 0, sharing.blocks, sharing.each(block, indices, noted)),
        over(tile, first, split, seq(*naming, tirx.BufferStore(numbers, i64(count), [tile]), listed)),
    )
    func = tirx.PrimFunc([found, counts, slots, numbers], body).with_attr("global_symbol", "main")
    tensors = [tvm.runtime.tensor(np.zeros([int(d) for d in b.shape], "i8")) for b in (found, counts, slots, numbers)]
    tvm.compile(func, "llvm")(*tensors)
    listing, (total,), known, lengths = (t.numpy() for t in tensors)
    tiles = range(first, first + split)
    return [tuple(map(int, row)) for row in listing[:total]], {t: known[t, : lengths[t]].tolist() for t in tiles}


def test_who_is_split():
    """Few tiles with long K are; many are not, nor what has open sizes."""

    def default(template, typed, spec):
        op = typed.spec if isinstance(typed, Typed) else typed
        return template.match(op, spec).default.int("split")

    a100, h200 = (CudaTarget.from_preset(name).spec for name in ("a100", "h200"))
    mi300 = RocmTarget.from_preset("mi300x").spec
    thin = matmul((64, 8192), (8192, 256), (64, 256), True)
    large = matmul((4096, 4096), (4096, 4096), (4096, 4096), True)
    halves = [(TensorCoreMatmul(), a100), (PipelineMatmul(), h200), (MatrixCoreMatmul(), mi300)]
    for template, spec in halves:
        types = Typed(thin, result="float16"), Typed(large, result="float16")
        assert default(template, types[0], spec) > 1
        assert default(template, types[1], spec) == 1
    assert default(MatmulSimt(), thin, a100) > 1
    assert default(MatmulSimt(), large, a100) == 1
    assert default(TensorCoreMatmul(), Typed(matmul(("m", 8192), (8192, 64), ("m", 64), True)), a100) == 1
    offered = PipelineMatmul().match(Typed(matmul((2048, 4096), (4096, 3072), (2048, 3072), True)).spec, h200)
    assert any(c.int("split") == EVENLY for c in offered)


@pytest.mark.skipif(not list(find_compilers()), reason="no CUDA compiler: pip install 'kompilo[cuda]'")
@pytest.mark.parametrize(
    ("template", "config", "preset"),
    [
        (TensorCoreMatmul(), TensorTile(128, 128, 32, 2, 2, 4, EVENLY).config(), "a100"),
        (PipelineMatmul(), PipelineTile(128, 256, 2, 4, split=EVENLY).config(), "h200"),
    ],
)
def test_machine_code(template, config, preset):
    op = Typed(
        matmul((640, 4096), (4096, 1280), (640, 1280), True, steps=BIAS_RELU, extra=((1280,),)), result="float16"
    )
    code = cubin(template, op.spec, config, preset)
    used = resources_of_cubin(code).values()
    assert len(used) == 2
    assert not any(kernel.spills_bytes for kernel in used)
