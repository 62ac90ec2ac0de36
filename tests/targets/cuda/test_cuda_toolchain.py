"""CUDA C++ to cubins by each compiler of this machine, and what is said where that does not work."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass

import pytest
from disassemble import count, sass_of

from kompilo.compiler.errors import KompiloError, TargetError
from kompilo.targets.cuda import compilers
from kompilo.targets.cuda.compilers import Compiler, Nvcc, Nvrtc, UnknownArchitecture, Unusable, find_compilers
from kompilo.targets.cuda.toolchain import compile_cubin
from kompilo.targets.gpu import programs
from kompilo.targets.gpu.elf import MACHINE_CUDA, ElfFile
from kompilo.targets.gpu.resources import resources_of_cubin

ARCHS = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_90a")
SCALE = """
#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <mma.h>
extern "C" __global__ void __launch_bounds__(128) scale(float* __restrict__ a, const half* __restrict__ b, int64_t n) {
  uint32_t i = blockIdx.x * 128 + threadIdx.x;
  if (i < n) a[i] = fmaxf(__half2float(b[i]) * 2.0f, -INFINITY);
}
"""
WMMA = """
#include <mma.h>
#include <cuda_fp16.h>
extern "C" __global__ void product(const half* a, const half* b, float* c) {
  using namespace nvcuda::wmma;
  fragment<matrix_a, 16, 16, 16, half, row_major> x;
  fragment<matrix_b, 16, 16, 16, half, row_major> y;
  fragment<accumulator, 16, 16, 16, float> z;
  fill_fragment(z, 0.0f);
  load_matrix_sync(x, a, 16);
  load_matrix_sync(y, b, 16);
  mma_sync(z, x, y, z);
  store_matrix_sync(c, z, 16, mem_row_major);
}
"""
FOUND = {compiler.name: compiler for compiler in reversed(list(find_compilers()))}
HOW = {"NVRTC": "pip install 'kompilo[cuda]'", "nvcc": "it comes with the CUDA toolkit"}


@pytest.fixture(params=["NVRTC", "nvcc"])
def compiler(request) -> Compiler:
    if request.param not in FOUND:
        pytest.skip(f"{request.param} is not installed: {HOW[request.param]}")
    return FOUND[request.param]


@pytest.mark.parametrize("arch", ARCHS)
def test_every_architecture(compiler, arch):
    cubin = compile_cubin(SCALE, arch, compilers=[compiler])
    assert ElfFile(cubin).machine == MACHINE_CUDA
    assert resources_of_cubin(cubin)["scale"].threads == 128


@pytest.mark.parametrize("arch", ["sm_75", "sm_80", "sm_90a"])
def test_tensor_cores(compiler, arch):
    assert count(sass_of(compile_cubin(WMMA, arch, compilers=[compiler])), "HMMA") > 0


def test_options(compiler):
    cubin = compile_cubin(SCALE, "sm_80", ["--maxrregcount=16"], [compiler])
    assert resources_of_cubin(cubin)["scale"].registers <= 16


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("oops", r"CUDA C\+\+ for sm_80: kernel.cu\(1\): error: .*"),
        ("\n\n__global__ void k(float* a) { a = b; }", r"kernel.cu\(3\): error: identifier \"b\" is undefined"),
        ('extern "C" __global__ void k(float* a) { __shared__ float s[99999]; a[threadIdx.x] = s[a[0] > 1]; '
         "s[threadIdx.x] = a[1]; }", "ptxas error.*uses too much shared data"),
    ],
)  # fmt: skip
def test_errors_of_the_source(compiler, source, said):
    with pytest.raises(KompiloError, match=said) as caught:
        compile_cubin(source, "sm_80", compilers=[compiler])
    assert "\n" not in str(caught.value)
    assert not isinstance(caught.value, TargetError)


def test_an_architecture_that_the_compiler_does_not_know(compiler):
    with pytest.raises(TargetError, match=rf"no CUDA compiler can compile for sm_52 \({compiler.name} knows .*sm_80"):
        compile_cubin(SCALE, "sm_52", compilers=[compiler])


@pytest.mark.parametrize("arch", ["gfx942", "sm_", "80", "compute_80", "sm_80 -v"])
def test_what_is_no_architecture(arch):
    with pytest.raises(TargetError, match="expected an architecture such as 'sm_80'"):
        compile_cubin(SCALE, arch)


def test_no_compiler():
    with pytest.raises(TargetError, match=r"no CUDA compiler found: expected NVRTC or nvcc. Hint: pip install"):
        compile_cubin(SCALE, "sm_80", compilers=[])


def test_a_missing_header_is_the_compilers_fault(compiler):
    with pytest.raises(TargetError, match=f"{compiler.name} does not work: .*nowhere.h"):
        compile_cubin("#include <nowhere.h>", "sm_80", compilers=[compiler])


@dataclass(frozen=True)
class Fake(Compiler):
    name: str
    problem: Exception | None = None

    def compile(self, source, arch, options):
        if self.problem:
            raise self.problem
        return f"{self.name} {arch}".encode()


def test_the_first_that_can_compiles():
    asked = [Fake("a", UnknownArchitecture("sm_10")), Fake("b", Unusable("gcc is missing")), Fake("c"), Fake("d")]
    assert compile_cubin("", "sm_80", compilers=asked) == b"c sm_80"
    with pytest.raises(TargetError, match=r"\(a knows sm_10; b does not work: gcc is missing\)"):
        compile_cubin("", "sm_80", compilers=asked[:2])


@pytest.fixture
def library(tmp_path):
    """A library of NVRTC's functions that does as told instead of compiling."""
    cc = shutil.which("cc")
    if not cc:
        pytest.skip("cc is not installed")

    def build(deed: str) -> Nvrtc:
        source, path = tmp_path / "fake.c", tmp_path / "libnvrtc.so"
        source.write_text(
            "#include <stdlib.h>\n#include <unistd.h>\n#include <stdio.h>\n"
            'const char* nvrtcGetErrorString(int status) { return "no reason"; }\n'
            f"int nvrtcCreateProgram(void** p) {{ *p = p; {deed}; return 0; }}\n"
        )
        subprocess.run([cc, "-shared", "-fPIC", str(source), "-o", str(path)], check=True)
        return Nvrtc(path, ())

    return build


@pytest.mark.parametrize(("deed", "name"), [("abort()", "SIGABRT"), ("*(volatile int*)8 = 1", "SIGSEGV")])
def test_a_crash_of_nvrtc_loses_one_kernel_only(library, deed, name):
    with pytest.raises(KompiloError, match=rf"CUDA C\+\+ for sm_80: NVRTC died of {name}"):
        compile_cubin("", "sm_80", compilers=[library(deed)])


def test_nvrtc_that_hangs(library, monkeypatch):
    monkeypatch.setattr(programs.run, "__defaults__", (b"", 2.0))
    with pytest.raises(KompiloError, match="NVRTC for sm_80: not done within 2 s, and stopped"):
        compile_cubin("", "sm_80", compilers=[library("sleep(60)")])


def test_a_library_that_is_not_nvrtc(library):
    with pytest.raises(TargetError, match="NVRTC does not work: AttributeError: .*undefined symbol"):
        compile_cubin("", "sm_80", compilers=[library("0")])


def test_nvcc_that_is_not_one():
    with pytest.raises(TargetError, match="nvcc does not work: exit status 1"):
        compile_cubin("", "sm_80", compilers=[Nvcc(shutil.which("false"))])
    with pytest.raises(KompiloError, match="nvcc for sm_80: '/no/nvcc' cannot be started: No such file"):
        compile_cubin("", "sm_80", compilers=[Nvcc("/no/nvcc")])


def test_compilers_of_a_toolkit_are_found(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    (tmp_path / "lib64").mkdir()
    (tmp_path / "include").mkdir()
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.write_text("#!/bin/sh\nexit 1\n")
    nvcc.chmod(0o755)
    (tmp_path / "lib64" / "libnvrtc.so.13").touch()
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setattr(compilers, "_wheels", list)
    first, second, *_ = find_compilers()
    assert first == Nvrtc(tmp_path / "lib64" / "libnvrtc.so.13", (tmp_path / "include",))
    assert second in (Nvcc(str(nvcc)), *find_compilers())
    assert Nvcc(str(nvcc)) in list(find_compilers())


def test_the_child_needs_the_standard_library_alone():
    child = str(compilers.Path(compilers.__file__).with_name("nvrtc_child.py"))
    done = subprocess.run([sys.executable, "-I", "-S", child], input=b"{}", capture_output=True, check=False)
    assert b"KeyError: 'library'" in done.stderr


# The head of every source that TVM generates, as far as NVRTC sees it.
TVM_HEAD = """
#include <cuda/std/cstdint>
using cuda::std::int64_t;
using cuda::std::uint8_t;
#include <cuda/std/type_traits>
namespace std {
    using cuda::std::conditional;
    using cuda::std::enable_if;
    using cuda::std::is_floating_point;
    using cuda::std::is_integral;
    using cuda::std::is_same;
    using cuda::std::is_same_v;
    using cuda::std::is_signed;
    using cuda::std::is_unsigned;
}
"""
TRAITS = """
static_assert(std::is_same_v<std::conditional<sizeof(int64_t) == 8, int, float>::type, int>);
static_assert(std::is_integral<const uint8_t>::value && std::is_integral<bool>::value);
static_assert(!std::is_integral<float>::value && !std::is_integral<const double>::value);
static_assert(std::is_floating_point<double>::value && !std::is_floating_point<int>::value);
static_assert(std::is_signed<int>::value && std::is_signed<float>::value && !std::is_signed<unsigned>::value);
static_assert(std::is_unsigned<uint8_t>::value && std::is_unsigned<bool>::value && !std::is_unsigned<double>::value);
static_assert(!std::is_signed<int*>::value && !std::is_integral<int*>::value);
template <class T, typename std::enable_if<std::is_integral<T>::value, int>::type = 0>
__device__ T twice(T x) { return x + x; }
template <class T, typename std::enable_if<!std::is_integral<T>::value, int>::type = 0>
__device__ T twice(T x) { return 2 * x; }
extern "C" __global__ void scale(float* x, int n) {
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i] = twice(x[i]) + twice((int)i);
}
"""


@pytest.mark.skipif("NVRTC" not in FOUND, reason=HOW["NVRTC"])
def test_short_headers_give_the_same_code():
    compiler = FOUND["NVRTC"]
    source = TVM_HEAD + TRAITS
    short = compiler.compile(source, "sm_80", ())
    whole = compiler._compile(source, "sm_80", (), compilers._NVRTC_HEADERS)
    texts = []
    for cubin in (short, whole):
        elf = ElfFile(cubin, "cubin")
        texts.append(elf.content(elf.section(".text.scale")))
    assert texts[0] == texts[1]
    assert len(texts[0]) > 0


@pytest.mark.skipif("NVRTC" not in FOUND, reason=HOW["NVRTC"])
def test_what_the_short_headers_lack_comes_from_the_real_ones():
    source = TVM_HEAD + 'static_assert(cuda::std::is_pointer<int*>::value);\nextern "C" __global__ void k() {}\n'
    assert FOUND["NVRTC"].compile(source, "sm_80", ()).startswith(b"\x7fELF")
    with pytest.raises(KompiloError, match="CUDA C\\+\\+ for sm_80: .*no_such_name"):
        FOUND["NVRTC"].compile(TVM_HEAD + "__device__ int x = no_such_name;", "sm_80", ())
