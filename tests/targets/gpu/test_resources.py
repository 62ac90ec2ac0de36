"""Resources read from real machine code, against NVIDIA's and LLVM's own tools; occupancy against NVIDIA's header."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from disassemble import llvm_tool, nvidia_tool
from rocm_kernels import ROCM_ARCHS, code_object_of, needs_lld

from kompilo.compiler.errors import KompiloError, TargetError
from kompilo.targets.cuda import presets as cuda_presets
from kompilo.targets.cuda.compilers import find_compilers
from kompilo.targets.cuda.toolchain import compile_cubin
from kompilo.targets.gpu.occupancy import allocation_rules, occupancy
from kompilo.targets.gpu.resources import Resources, resources_of_code_object, resources_of_cubin
from kompilo.targets.rocm import presets as rocm_presets

CUDA_ARCHS = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_90a")
SOURCE = """
#define KERNEL extern "C" __global__ void
KERNEL plain(float* a) { a[threadIdx.x] *= 2; }
KERNEL __launch_bounds__(96) bounded(float* a) { a[threadIdx.x] += 1; }
KERNEL fixed(float* a) {
  __shared__ float s[128];
  s[threadIdx.x] = a[threadIdx.x]; __syncthreads(); a[threadIdx.x] = s[threadIdx.x ^ 1];
}
KERNEL dynamic(float* a) {
  extern __shared__ float s[];
  s[threadIdx.x] = a[threadIdx.x]; __syncthreads(); a[threadIdx.x] = s[threadIdx.x ^ 1];
}
KERNEL indexed(float* a, int n) {
  float t[64];
  for (int i = 0; i < 64; i++) t[i] = a[i * n];
  for (int i = 0; i < 64; i++) a[i] = t[(i * n) & 63];
}
KERNEL __launch_bounds__(1024, 2) spilling(float* a, int n) {
  float t[64];
  #pragma unroll
  for (int i = 0; i < 64; i++) t[i] = a[i * n];
  __syncthreads();
  #pragma unroll
  for (int i = 0; i < 64; i++) a[i] = t[63 - i] * t[i];
}
"""
needs_nvidia = pytest.mark.skipif(not list(find_compilers()), reason="no CUDA compiler: pip install 'kompilo[cuda]'")


@functools.cache
def cubin(arch: str) -> bytes:
    return compile_cubin(SOURCE, arch)


@needs_nvidia
@pytest.mark.parametrize("arch", CUDA_ARCHS)
def test_cubin(arch):
    kernels = resources_of_cubin(cubin(arch))
    assert sorted(kernels) == ["bounded", "dynamic", "fixed", "indexed", "plain", "spilling"]
    assert all(k.kernel == name and k.registers > 0 and k.code_bytes % 16 == 0 for name, k in kernels.items())
    assert kernels["bounded"].threads == 96
    assert kernels["plain"].threads == 0
    assert {name: k.shared_bytes for name, k in kernels.items() if k.shared_bytes} == {"fixed": 512}
    assert kernels["indexed"].spills_bytes == 256
    assert kernels["plain"].spills_bytes == 0
    # Where an SM has 2048 threads, two blocks of 1024 are kept and leave 32 registers; elsewhere one block has 64.
    assert (kernels["spilling"].spills_bytes > 0) == (arch in ("sm_80", "sm_90", "sm_90a"))


@needs_nvidia
@pytest.mark.parametrize("arch", CUDA_ARCHS)
def test_cubin_as_nvidias_tool_has_it(arch, tmp_path):
    path = tmp_path / "kernels.cubin"
    path.write_bytes(cubin(arch))
    told = subprocess.run(
        [nvidia_tool("cuobjdump"), "-res-usage", str(path)], capture_output=True, text=True, check=True
    ).stdout
    rows = re.findall(r"Function (\w+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", told)
    # The tool counts the driver's own share, which every kernel has from sm_90 on.
    reserved = 1024 if arch.startswith("sm_90") else 0
    expected = {
        name: (int(registers), int(stack) + int(local), int(shared) - reserved)
        for name, registers, stack, shared, local in rows
    }
    found = resources_of_cubin(cubin(arch))
    assert expected == {name: (k.registers, k.spills_bytes, k.shared_bytes) for name, k in found.items()}


@needs_lld
@pytest.mark.parametrize("arch", ROCM_ARCHS)
@pytest.mark.parametrize("kernel", ["scale", "reverse"])
def test_code_object(arch, kernel):
    (used,) = resources_of_code_object(code_object_of(kernel, arch)).values()
    assert used.registers > 0
    assert used.scalar_registers > 0
    assert used.spills_bytes == 0
    assert used.shared_bytes == {"scale": 0, "reverse": 1024}[kernel]
    assert used.threads == {"scale": 64, "reverse": 256}[kernel]
    assert used.code_bytes > 0


@needs_lld
@pytest.mark.parametrize("arch", ROCM_ARCHS)
def test_code_object_as_llvms_tool_has_it(arch, tmp_path):
    path = tmp_path / "kernels.hsaco"
    path.write_bytes(code_object_of("reverse", arch))
    command = [llvm_tool("llvm-readelf"), "--notes", str(path)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    expected = {name: int(value) for name, value in re.findall(r"\.(\w+):\s+(\d+)$", told, re.MULTILINE)}
    (used,) = resources_of_code_object(path.read_bytes()).values()
    assert used.registers == expected["vgpr_count"]
    assert used.scalar_registers == expected["sgpr_count"]
    assert used.accumulation_registers == expected.get("agpr_count", 0)
    assert used.spills_bytes == expected["private_segment_fixed_size"]
    assert used.shared_bytes == expected["group_segment_fixed_size"]
    assert used.threads == expected["max_flat_workgroup_size"]


@pytest.mark.parametrize("read", [resources_of_cubin, resources_of_code_object])
def test_what_is_no_machine_code(read):
    for junk in (b"", b"\x7fELF", b"not an ELF file, whatever its length may be" * 10, b"\x7fELF\x02\x01" + bytes(58)):
        with pytest.raises(KompiloError, match="^(cubin|code object): "):
            read(junk)


@needs_nvidia
def test_the_other_makers_code():
    with pytest.raises(KompiloError, match="expected code for AMD's GPUs, found an ELF file for machine 190"):
        resources_of_code_object(cubin("sm_80"))


@needs_nvidia
def test_a_damaged_cubin_is_an_error_and_never_another():
    whole = cubin("sm_80")
    for size in range(0, len(whole), 97):
        with pytest.raises(KompiloError):
            resources_of_cubin(whole[:size])
    for place in range(0, len(whole), 61):
        broken = bytearray(whole)
        broken[place] ^= 0xFF
        with suppress(KompiloError):
            resources_of_cubin(bytes(broken))


@needs_lld
def test_a_damaged_code_object_is_an_error_and_never_another():
    whole = code_object_of("scale", "gfx942")
    refused = 0
    for place in range(0, len(whole), 7):
        broken = bytearray(whole)
        broken[place] ^= 0xFF
        try:
            found = resources_of_code_object(bytes(broken))
        except KompiloError:
            refused += 1
        else:
            assert all(isinstance(r, Resources) for r in found.values())
    assert refused > 0


def used(registers: int = 32, shared: int = 0, scalar: int = 0) -> Resources:
    return Resources("k", registers, 0, shared, 128, scalar_registers=scalar)


@pytest.mark.parametrize(
    ("target", "resources", "threads", "expected"),
    [
        ("a100", used(32), 256, (8, "threads")),
        ("a100", used(128), 256, (2, "registers")),
        ("a100", used(255), 256, (1, "registers")),
        ("a100", used(32, shared=48 * 1024), 256, (3, "shared memory")),
        ("a100", used(16), 32, (32, "blocks")),
        ("t4", used(32, shared=32 * 1024), 256, (2, "shared memory")),
        ("h100", used(168), 384, (1, "registers")),
        ("rtx4090", used(32), 1024, (1, "threads")),
        ("a100", used(32), 2048, (0, "threads")),
        ("a100", used(32, shared=200 * 1024), 256, (0, "shared memory")),
        ("mi210", used(128), 256, (4, "registers")),
        ("mi210", used(512), 256, (1, "registers")),
        ("mi300x", used(64), 64, (32, "blocks")),
        ("mi300x", used(32), 128, (16, "blocks")),  # two warps need a barrier, of which there are 16
        ("mi300x", used(32, scalar=102), 256, (7, "registers")),
        ("mi300x", used(32, shared=33 * 1024), 256, (1, "shared memory")),
        ("rx7900", used(96), 256, (8, "threads")),  # on two compute units
        ("rx7900", used(192), 256, (4, "registers")),
        ("rx7900", used(32, shared=40 * 1024), 256, (3, "shared memory")),
    ],
)
def test_occupancy(target, resources, threads, expected):
    spec = (cuda_presets.cuda_spec if target in cuda_presets.preset_names() else rocm_presets.rocm_spec)(target)
    found = occupancy(resources, spec, threads)
    assert (found.blocks, found.limit) == expected
    assert 0 <= found.fraction <= 1


def test_occupancy_of_an_unknown_architecture():
    with pytest.raises(TargetError, match="no rules of occupancy are known for 'xe2'"):
        allocation_rules("xe2")


HEADER_PROGRAM = r"""
#include <cstdio>
#include <cstdlib>
#include "cuda_occupancy.h"
int main(int argc, char** argv) {
  int major, minor, regs, sharedSm, sharedBlock, threadsSm, registers, threads, shared;
  while (scanf("%d %d %d %d %d %d %d %d %d", &major, &minor, &regs, &sharedSm, &sharedBlock, &threadsSm, &registers,
               &threads, &shared) == 9) {
    cudaOccDeviceProp p = cudaOccDeviceProp();
    p.computeMajor = major; p.computeMinor = minor; p.maxThreadsPerBlock = 1024;
    p.maxThreadsPerMultiprocessor = threadsSm; p.regsPerBlock = regs; p.regsPerMultiprocessor = regs; p.warpSize = 32;
    p.sharedMemPerBlock = 48 * 1024; p.sharedMemPerMultiprocessor = sharedSm; p.numSms = 1;
    p.sharedMemPerBlockOptin = sharedBlock; p.reservedSharedMemPerBlock = major >= 8 ? 1024 : 0;
    cudaOccFuncAttributes a = cudaOccFuncAttributes();
    a.maxThreadsPerBlock = 1024; a.numRegs = registers; a.sharedSizeBytes = shared;
    a.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN; a.maxDynamicSharedSizeBytes = 0; a.numBlockBarriers = 1;
    cudaOccDeviceState s = cudaOccDeviceState();
    s.cacheConfig = CACHE_PREFER_SHARED; s.carveoutConfig = SHAREDMEM_CARVEOUT_MAX_SHARED;
    cudaOccResult r;
    int status = cudaOccMaxActiveBlocksPerMultiprocessor(&r, &p, &a, &s, threads, 0);
    printf("%d\n", status == 0 ? r.activeBlocksPerMultiprocessor : -1);
  }
}
"""


@pytest.mark.parametrize("target", ["t4", "a100", "a10", "l4", "h100"])
def test_occupancy_as_nvidias_header_has_it(target, tmp_path):
    compiler, header = shutil.which("g++"), _header()
    if not compiler or header is None:
        pytest.skip("needs g++ and cuda_occupancy.h (pip install 'kompilo[cuda]')")
    (tmp_path / "program.cpp").write_text(HEADER_PROGRAM)
    program = str(tmp_path / "program")
    subprocess.run([compiler, "-w", f"-I{header}", str(tmp_path / "program.cpp"), "-o", program], check=True)
    spec = cuda_presets.cuda_spec(target)
    cases = [
        (registers, threads, shared)
        for registers in (16, 24, 32, 33, 40, 63, 64, 65, 96, 128, 168, 255)
        for threads in (32, 64, 96, 128, 160, 256, 320, 384, 512, 768, 1024)
        for shared in (0, 512, 1000, 8192, 16384, 24000, 32768, 49152, 65536, 99 * 1024, 163 * 1024, 227 * 1024)
    ]
    facts = (spec.registers, spec.shared_bytes_per_sm, spec.shared_bytes, spec.threads_per_sm)
    lines = [" ".join(map(str, (spec.arch[3], spec.arch[4], *facts, *case))) for case in cases]
    told = subprocess.run([program], input="\n".join(lines), capture_output=True, text=True, check=True).stdout.split()
    ours = [occupancy(used(registers, shared), spec, threads).blocks for registers, threads, shared in cases]
    wrong = [
        (case, mine, int(theirs)) for case, mine, theirs in zip(cases, ours, told, strict=True) if mine != int(theirs)
    ]
    assert wrong == []


def _header() -> Path | None:
    folders = [folder for compiler in find_compilers() for folder in getattr(compiler, "includes", ())]
    return next((f for f in (*folders, Path("/usr/local/cuda/include")) if (f / "cuda_occupancy.h").is_file()), None)
