"""Objects of LLVM to code objects of AMD, instructions in them, and what is said where that does not work."""

from __future__ import annotations

import re

import pytest
import tvm
from disassemble import count, gcn_of
from rocm_kernels import KERNELS, ROCM_ARCHS, code_object_of, device_module, needs_lld
from tvm.script import tirx as T

from kompilo.compiler.errors import KompiloError, TargetError
from kompilo.targets.gpu.elf import MACHINE_AMDGPU, ElfFile
from kompilo.targets.gpu.lowering import split
from kompilo.targets.gpu.resources import resources_of_code_object
from kompilo.targets.rocm import toolchain
from kompilo.targets.rocm.codegen import code_object, is_risky
from kompilo.targets.rocm.llvm_ir import finished
from kompilo.targets.rocm.toolchain import Lld, bitcode, installed_llds, link_code_object

# EF_AMDGPU_MACH of LLVM's ELF.h.
MACHINES = {"gfx90a": 0x3F, "gfx942": 0x4C, "gfx1100": 0x41}


@needs_lld
@pytest.mark.parametrize("arch", ROCM_ARCHS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_every_architecture(arch, kernel):
    elf = ElfFile(code_object_of(kernel, arch))
    assert elf.machine == MACHINE_AMDGPU
    assert elf.flags & 0xFF == MACHINES[arch]
    assert elf.abi_version == 3  # code object version 5
    assert f"amdgcn-amd-amdhsa--{arch}".encode() in elf.data
    assert list(resources_of_code_object(elf.data)) == [f"{kernel}_kernel"]


@needs_lld
@pytest.mark.parametrize("arch", ROCM_ARCHS)
def test_instructions(arch):
    text = gcn_of(code_object_of("reverse", arch))
    assert count(text, "ds_") == 2
    assert count(text, "global_load") == 1


@needs_lld
@pytest.mark.parametrize("arch", ROCM_ARCHS)
def test_waves_wait_for_their_stores_at_a_barrier(arch):
    """From gfx90a on `s_barrier` waits for nothing but the other waves."""
    lines = [line.split("//")[0].split() for line in gcn_of(code_object_of("reverse", arch)).splitlines()]
    words = [line for line in lines if line]
    (place,) = [k for k, line in enumerate(words) if line[0] == "s_barrier"]
    assert words[place - 1] == ["s_waitcnt", "lgkmcnt(0)"]
    assert words[place - 2][0].startswith("ds_")
    assert any(line[0].startswith("ds_") for line in words[place + 1 :])


@needs_lld
def test_what_is_no_object():
    with pytest.raises(KompiloError, match=r"ROCm code for gfx942: the linker .* failed: .*(unknown file type|error)"):
        link_code_object(b"no object", "gfx942")


@pytest.mark.parametrize("arch", ["sm_80", "gfx", "gfx942 -v", "942"])
def test_what_is_no_architecture(arch):
    with pytest.raises(TargetError, match="ROCm: expected an architecture such as 'gfx942'"):
        link_code_object(b"", arch)
    with pytest.raises(TargetError, match="ROCm: expected an architecture such as 'gfx942'"):
        bitcode(arch)


@pytest.fixture
def fresh():
    toolchain.find_lld.cache_clear()
    yield
    toolchain.find_lld.cache_clear()


def test_no_linker(monkeypatch, fresh):
    monkeypatch.setattr(toolchain, "installed_llds", lambda: iter(()))
    with pytest.raises(TargetError, match=r"needs the linker ld.lld: .* 17 or newer, found none. Hint: apt install"):
        link_code_object(b"", "gfx942")


def test_old_linkers(monkeypatch, fresh):
    monkeypatch.setattr(toolchain, "installed_llds", lambda: iter([Lld(("a",), 14), Lld(("b",), 0)]))
    with pytest.raises(TargetError, match=r"found that a is of version 14, b is of version unknown"):
        toolchain.find_lld()


def test_a_new_linker_among_old_ones(monkeypatch, fresh):
    monkeypatch.setattr(toolchain, "installed_llds", lambda: iter([Lld(("a",), 14), Lld(("b",), 19)]))
    assert toolchain.find_lld() == Lld(("b",), 19)


@pytest.mark.parametrize(
    ("said", "version"),
    [("Debian LLD 19.1.7 (compatible with GNU linkers)", 19), ("LLD 20.1.2", 20), ("GNU ld 2.40", 0)],
)
def test_versions_of_linkers(tmp_path, monkeypatch, said, version):
    program = tmp_path / "ld.lld"
    program.write_text(f"#!/bin/sh\necho '{said}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert next(installed_llds()) == Lld((str(program),), version)


def test_the_device_library(tmp_path):
    place = tmp_path / "amdgcn" / "bitcode"
    place.mkdir(parents=True)
    assert bitcode("gfx942", [tmp_path]) == []
    for name in ("ocml", "oclc_daz_opt_off", "oclc_correctly_rounded_sqrt_on", "oclc_finite_only_off",
                 "oclc_unsafe_math_off", "oclc_wavefrontsize64_on", "oclc_wavefrontsize64_off",
                 "oclc_isa_version_942", "oclc_abi_version_500"):  # fmt: skip
        (place / f"{name}.bc").touch()
    found = bitcode("gfx942", [tmp_path])
    assert len(found) == 8
    assert found[0].endswith("ocml.bc")
    assert any(name.endswith("wavefrontsize64_on.bc") for name in found)
    assert bitcode("gfx1100", [tmp_path]) == []  # it does not know that architecture


@T.prim_func(s_tir=True)
def matrix_core(A: T.Buffer((64, 4), "int8"), C: T.Buffer((64, 4), "int32")):
    T.func_attr({"global_symbol": "matrix_core", "tirx.noalias": True})
    T.launch_thread("blockIdx.x", 1)
    t = T.launch_thread("threadIdx.x", 64)
    c = T.alloc_buffer((4,), "int32", scope="local")
    for i in range(4):
        c[i] = 0
    c[T.Ramp(0, 1, 4)] = T.call_llvm_pure_intrin(
        "int32x4", "llvm.amdgcn.mfma.i32.16x16x16i8",
        T.reinterpret("int32", A[t, T.Ramp(0, 1, 4)]), T.reinterpret("int32", A[t, T.Ramp(0, 1, 4)]),
        c[T.Ramp(0, 1, 4)], T.int32(0), T.int32(0), T.int32(0),
    )  # fmt: skip
    for i in range(4):
        C[t, i] = c[i]


@needs_lld
def test_matrix_cores_are_compiled_in_a_process_of_their_own():
    mod, target = device_module(matrix_core, "gfx90a")
    assert is_risky(mod)
    code = code_object(mod, target)
    assert count(gcn_of(code), "v_mfma_i32_16x16x16") == 1


@needs_lld
def test_an_abort_of_llvm_loses_one_module_only():
    with pytest.raises(KompiloError, match=r"ROCm code for gfx942: LLVM died of SIGABRT: .*Cannot select: intrinsic"):
        code_object(*device_module(matrix_core, "gfx942"))


@needs_lld
def test_either_process_gives_the_same_code():
    mod, target = device_module(KERNELS["scale"], "gfx1100")
    assert not is_risky(mod)
    assert code_object(mod, target, isolate=True) == code_object(mod, target, isolate=False)


@T.prim_func(s_tir=True)
def two_sizes(A: T.Buffer((1024,), "float32"), B: T.Buffer((1024,), "float32")):
    T.func_attr({"global_symbol": "two_sizes", "tirx.noalias": True})
    with T.launch_thread("blockIdx.x", 1):
        t = T.launch_thread("threadIdx.x", 1024)
        B[t] = A[t] + T.float32(1)
    with T.launch_thread("blockIdx.x", 16):
        t = T.launch_thread("threadIdx.x", 64)
        B[t] = B[t] * T.float32(3)


@needs_lld
def test_each_kernel_has_the_registers_of_its_own_block_size():
    mod, target = device_module(two_sizes, "gfx90a")
    threads = sorted(k.threads for k in resources_of_code_object(code_object(mod, target)).values())
    assert threads == [64, 1024]


IR = """target triple = "amdgcn-amd-amdhsa-hcc"

define dllexport amdgpu_kernel void @one(ptr addrspace(1) %a) local_unnamed_addr #0 {
  ret void
}

define amdgpu_kernel void @two(i32 %n) #0 !dbg !7 {
  ret void
}

define weak float @helper(i16 %a) #1 {
  ret float 0.0
}

attributes #0 = { nounwind "amdgpu-flat-work-group-size"="1,256" "target-cpu"="gfx942" }
attributes #1 = { nounwind }

!7 = !{}
"""


def test_ir_is_completed():
    done = finished(IR, "gfx942", {"one": 96, "two": 512})
    assert 'target triple = "amdgcn-amd-amdhsa"\n' in done
    numbers = dict(re.findall(r"@(\w+)\(.*#(\d+)", done))
    assert len({*numbers.values()}) == 3
    for name, size in (("one", 96), ("two", 512)):
        attributes = re.search(rf"^attributes #{numbers[name]} = (.*)$", done, re.MULTILINE).group(1)
        assert attributes.count("amdgpu-flat-work-group-size") == 1
        assert f'"amdgpu-flat-work-group-size"="1,{size}"' in attributes
        assert '"target-cpu"="gfx942"' in attributes
    assert "!llvm.module.flags = !{!8, !9}" in done
    assert '!8 = !{i32 1, !"amdhsa_code_object_version", i32 500}' in done


def test_flags_that_are_there_stay():
    done = finished(IR + '!llvm.module.flags = !{!8}\n!8 = !{i32 1, !"x", i32 1}\n', "gfx942", {})
    assert "!llvm.module.flags = !{!8, !9, !10}" in done
    assert finished(IR, "gfx942", {}).count("attributes #") == 2


def test_modules_without_llvms_names_are_not_risky():
    @T.prim_func(s_tir=True)
    def plain(A: T.Buffer((64,), "float32")):
        T.func_attr({"global_symbol": "plain", "tirx.noalias": True})
        t = T.launch_thread("threadIdx.x", 64)
        A[t] = T.exp(A[t]) + T.sqrt(A[t]) * T.floor(A[t])

    target = device_module(KERNELS["scale"], "gfx942")[1]
    assert not is_risky(split(tvm.IRModule({"main": plain}), target).device)
