"""Facts of AMD's GPUs: names, rates against sizes and clocks, the local GPU as the kernel driver describes it."""

from __future__ import annotations

import pytest

from kompilo.compiler.errors import TargetError
from kompilo.targets.gpu.templates.matrix_core import INSTRUCTIONS, instructions_for
from kompilo.targets.rocm.presets import local_spec, preset_names, rocm_spec

# FLOP per compute unit and clock of matrix units (float32, float16) in the ISA guides and whitepapers.
RATES = {"gfx90a": (256, 1024), "gfx942": (256, 2048), "gfx1100": (256, 512)}


@pytest.mark.parametrize("name", preset_names())
def test_rates_follow_from_sizes_and_clocks(name):
    spec = rocm_spec(name)
    for dtype, flops in zip(("float32", "float16"), RATES[spec.arch], strict=True):
        assert spec.peak_flops(dtype) == pytest.approx(flops * spec.cores * spec.clock_hz, rel=0.05), dtype
    assert set(spec.matrix_dtypes) <= set(dict(spec.peak))


@pytest.mark.parametrize("name", preset_names())
def test_matrix_units_multiply_what_is_said_of_them(name):
    spec = rocm_spec(name)
    assert {i.dtype for i in INSTRUCTIONS[spec.matrix]} == set(spec.matrix_dtypes)
    assert all(instructions_for(spec, dtype, dtype) for dtype in spec.matrix_dtypes)


@pytest.mark.parametrize("arch", RATES)
def test_an_architecture_stands_for_a_gpu(arch):
    assert rocm_spec(arch).arch == arch


def test_an_unknown_name():
    with pytest.raises(TargetError, match="unknown target 'rocm:vega': expected one of gfx90a, .*rx7900"):
        rocm_spec("vega")


def node(folder, number: int, **facts: int) -> None:
    (folder / str(number)).mkdir()
    (folder / str(number) / "properties").write_text("".join(f"{name} {value}\n" for name, value in facts.items()))


@pytest.mark.parametrize(
    ("version", "simds", "key", "cores"),
    [
        (90402, 1216, "rocm-mi300x", 304),
        (90402, 320, "rocm-gfx942-80cu", 80),  # a partition of one
        (90010, 440, "rocm-mi250x", 110),
        (90010, 416, "rocm-mi210", 104),
        (110000, 192, "rocm-rx7900", 96),
    ],
)
def test_the_local_gpu(tmp_path, version, simds, key, cores):
    node(tmp_path, 0, cpu_cores_count=64, gfx_target_version=0)
    node(tmp_path, 1, gfx_target_version=version, simd_count=simds, simd_per_cu=2 if version == 110000 else 4)
    spec = local_spec(tmp_path)
    assert (spec.key, spec.cores) == (key, cores)


def test_no_local_gpu(tmp_path):
    with pytest.raises(TargetError, match=r"rocm: no AMD GPU is known .* Hint: .*rocm:mi300x"):
        local_spec(tmp_path)
    node(tmp_path, 0, cpu_cores_count=64)
    with pytest.raises(TargetError, match="no AMD GPU"):
        local_spec(tmp_path)


def test_a_local_gpu_of_an_unknown_architecture(tmp_path):
    node(tmp_path, 0, gfx_target_version=90006, simd_count=240, simd_per_cu=4)
    with pytest.raises(TargetError, match="this machine's GPU is gfx906: expected one of gfx90a, gfx942, gfx1100"):
        local_spec(tmp_path)
