"""Machine code of attention: instructions, no spills; models whose attention is one kernel."""

from __future__ import annotations

import pytest
from attention_cases import Attention
from disassemble import count, sass_of
from rocm_kernels import needs_lld
from tensor_core_cases import module

from kompilo.compiler.build import describe_operators
from kompilo.compiler.frontend.importer import import_model
from kompilo.compiler.model_source import resolve
from kompilo.compiler.passes.pipeline import run_phases
from kompilo.compiler.schedule.masks import ADDED
from kompilo.compiler.schedule.target import find_target
from kompilo.targets.cuda.compilers import find_compilers
from kompilo.targets.cuda.target import CudaTarget
from kompilo.targets.gpu.lowering import split
from kompilo.targets.gpu.resources import resources_of_code_object, resources_of_cubin
from kompilo.targets.gpu.templates.attention_simt import SimtAttention
from kompilo.targets.gpu.templates.attention_simt_nest import SimtTile
from kompilo.targets.gpu.templates.attention_tensor_core import TensorCoreAttention, WarpgroupAttention
from kompilo.targets.gpu.templates.attention_warpgroup import GroupTile
from kompilo.targets.rocm.target import RocmTarget

needs_cuda = pytest.mark.skipif(not list(find_compilers()), reason="no CUDA compiler: pip install 'kompilo[cuda]'")
FLASH = {
    "sm_80 64": ("sm_80", Attention((4, 16, 4096, 4096, 64))),
    "sm_80 96": ("sm_80", Attention((4, 16, 4096, 4096, 96), dtype="bfloat16")),
    "sm_80 256": ("sm_80", Attention((4, 16, 1024, 1024, 256))),
    "sm_90 few rows": ("sm_90", Attention((4, 16, 16, 4096, 128), own=4)),
}
WARPGROUPS = {
    "64 causal": (Attention((4, 16, "n", "n", 64), own=4, causal=True), None),
    # With a known number of steps the compiler would write the loop out, and ptxas wait behind each multiplication.
    "64 in three stages": (Attention((4, 16, 4096, 4096, 64)), GroupTile(2, 64, 3).config()),
    "128": (Attention((4, 16, 4096, 4096, 128)), None),
}
PLAIN = [("sm_80", 64), ("gfx90a", 64), ("gfx942", 128), ("gfx1100", 32)]


def code_of(template, op, target, config=None):
    parts = split(module(template, op, config, target)[0], target.tvm_target())
    return target.device_code(parts.device)[1]


@needs_cuda
@pytest.mark.parametrize("name", FLASH)
def test_on_tensor_cores(name):
    preset, case = FLASH[name]
    code = code_of(TensorCoreAttention(), case.spec, CudaTarget.from_preset(preset))
    (used,) = resources_of_cubin(code).values()
    text = sass_of(code)
    assert used.spills_bytes == 0
    assert count(text, "HMMA") >= 32
    assert count(text, "LDSM") > 0
    assert count(text, "LDGSTS") > 0
    assert count(text, "MUFU.EX2") > 0


@needs_cuda
@pytest.mark.parametrize("name", WARPGROUPS)
def test_by_warpgroups(name):
    """Both products of a step are under way together: ptxas would wait behind each multiplication otherwise."""
    case, config = WARPGROUPS[name]
    code = code_of(WarpgroupAttention(), case.spec, CudaTarget.from_preset("sm_90"), config)
    (used,) = resources_of_cubin(code).values()
    text = sass_of(code)
    assert used.spills_bytes == 0
    assert count(text, "HGMMA") >= 16
    assert count(text, "WARPGROUP.DEPBAR") <= 5
    assert count(text, "LDGSTS") > 0


@pytest.mark.parametrize(("preset", "depth"), PLAIN)
def test_plain(preset, depth):
    cuda = preset.startswith("sm_")
    if cuda and not list(find_compilers()):
        pytest.skip("no CUDA compiler: pip install 'kompilo[cuda]'")
    target = (CudaTarget if cuda else RocmTarget).from_preset(preset)
    op = Attention((1, 12, "n", "n", depth), dtype="float32").spec
    code = code_of(SimtAttention(), op, target)
    (used,) = (resources_of_cubin if cuda else resources_of_code_object)(code).values()
    assert used.spills_bytes == 0
    assert used.shared_bytes <= target.spec.shared_bytes


@needs_lld
@pytest.mark.parametrize("preset", ["gfx90a", "gfx1100"])
def test_plain_on_amd_takes_about_as_many_registers_as_is_reckoned(preset):
    """Short loops stay loops: written out they took 360 registers, or spilled, where one row has a mask."""
    target = RocmTarget.from_preset(preset)
    op = Attention((2, 4, 200, 300, 64), dtype="float32", masks=((ADDED, (2, 1, 200, 300), "float32"),)).spec
    for tile in (SimtTile(16, 64, 16, 16), SimtTile(64, 16, 16, 16)):
        (used,) = resources_of_code_object(code_of(SimtAttention(), op, target, tile.config())).values()
        assert used.spills_bytes == 0
        assert used.registers == pytest.approx(tile.registers(64, target.spec.warp), rel=0.25)


@pytest.fixture(scope="module")
def minilm():
    return import_model(resolve("zoo:minilm_l3"), None).mod


MINILM = {
    **dict.fromkeys(("cuda:sm_80", "cuda:sm_90", "rocm:gfx1100"), "attention_simt"),
    **dict.fromkeys(("rocm:gfx90a", "rocm:gfx942"), "attention_matrix_core"),
    "cpu": None,
}


@pytest.mark.parametrize("name", MINILM)
def test_minilm(minilm, name):
    """Its three attentions are one kernel each on GPUs; a CPU has no such kernel."""
    found = describe_operators(run_phases(minilm, find_target(name), stop_after="select"))
    fused = [(o.template, o.calls) for o in found if o.kind == "attention"]
    assert fused == ([(MINILM[name], 3)] if MINILM[name] else [])
