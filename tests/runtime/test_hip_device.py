"""What the loader builds upon for AMD's GPUs: TVM's device interface, launches of kernels, the list of devices."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from test_on_a_gpu import logged, on_gpu

from kompilo.compiler.errors import ArtifactError
from kompilo.compiler.runtime.device_interface import _SLOTS, check_layout

from gpu.fake_cuda import environment, shim_code
from gpu.shim_support import needs_shim

pytestmark = needs_shim

KERNEL = """
extern "C" __global__ void test(long long* out, long long a, int b, float c, unsigned char d) {
    extern __shared__ long long room[];
    room[threadIdx.x] = (((a * 100 + b) * 100 + (long long)(c * 4)) * 1000 + d) * 100 + threadIdx.x;
    __syncthreads();
    out[(blockIdx.y * gridDim.x + blockIdx.x) * blockDim.x + threadIdx.x] = room[threadIdx.x];
}
"""
ARGUMENTS = """
import ctypes, json
from kompilo.compiler.device_code import DeviceCode, Kernel
from kompilo.compiler.errors import KompiloError
from kompilo.compiler.runtime.accelerator import Accelerator
from kompilo.compiler.runtime.devices import KINDS, load_runtime
from kompilo.compiler.runtime.hip_device import hip_device
from kompilo.compiler.runtime.hip_kernels import load_kernels
tvm_ffi = load_runtime(KINDS["hsaco"])
own = hip_device(tvm_ffi)
accelerator = Accelerator(tvm_ffi, KINDS["hsaco"], own=own)
tags = ("blockIdx.y", "threadIdx.x", "blockIdx.x", "tirx.use_dyn_shared_memory")
kernel = Kernel("test", ("handle", "int64", "int32", "float32", "uint8"), tags)
class Model: pass
user = Model()
module = load_kernels(tvm_ffi, own, DeviceCode("hsaco", "gfx1100", open(path, "rb").read(), (kernel,)), 0, user)
out = accelerator.upload(np.zeros(2 * 3 * 5, "i8"))
numbers = (-7, 13, 2.75, 201)
for again in range(3):  # the arguments need not lie where they lay before
    module["test"](ctypes.c_void_p(out.data_ptr()), *numbers, 2, 5, 3, 40 + 8 * again)
    say(accelerator.download(out).tolist())
bad_ones = ("test", ("tensormap",), ()), ("test", ("handle",), ("clusterIdx.x",)), ("other", (), ())
for bad in [Kernel(*b) for b in bad_ones]:
    try:
        load_kernels(tvm_ffi, own, DeviceCode("hsaco", "gfx1100", open(path, "rb").read(), (bad,)), 0, user)
    except Exception as error:
        say(error)
del user
try:
    module["test"](ctypes.c_void_p(out.data_ptr()), *numbers, 2, 5, 3, 40)
except Exception as error:
    say(error)
"""


def test_arguments_of_every_kind_reach_a_kernel(tmp_path):
    """Integers of several widths, a float, and extents of a launch in any order."""
    path = tmp_path / "code"
    types = ("handle", "int64", "int32", "float32", "uint8")
    path.write_bytes(shim_code(KERNEL, [("test", types)]))
    *runs, one, two, three, last = on_gpu(path, ARGUMENTS, tmp_path).splitlines()
    wanted = [(((-7 * 100 + 13) * 100 + 11) * 1000 + 201) * 100 + thread for _ in range(6) for thread in range(5)]
    assert [json.loads(run) for run in runs] == [wanted] * 3
    assert logged(tmp_path, "launch") == [f"launch test 3 2 1 5 1 1 {size}" for size in (40, 48, 56)]
    assert one == "the artifact's kernel test takes tensormap, which HIP cannot pass."
    assert two == "the artifact's kernel test takes clusterIdx.x, which HIP cannot pass."
    assert three.startswith("hipErrorNotFound")
    assert last.startswith("hipErrorInvalidHandle")


def test_another_layout_of_tvm_s_interface_is_refused():
    """The base class's functions must stand where they stand in TVM 0.27, and there must be no more of them."""
    known = {slot.symbol: 100 + k for k, slot in enumerate(_SLOTS) if slot.symbol}
    found = [known.get(slot.symbol, 7 if k > 1 else 0) for k, slot in enumerate(_SLOTS)]
    check_layout(found, lambda symbol: known[symbol])
    for other in (
        [*found, 7],
        [*found[:-1]],
        [*found[:4], found[5], found[4], *found[6:]],
        [*found[:2], 8, *found[3:]],
    ):
        with pytest.raises(ArtifactError, match=r"expected that of TVM 0.27, found another"):
            check_layout(other, lambda symbol: known[symbol])
    with pytest.raises(ArtifactError, match=r"found another"):
        check_layout([0] * len(found), lambda symbol: 0)


@pytest.mark.parametrize(
    ("count", "wanted"),
    [
        (2, {"rocm:0": "AMD Instinct MI210, gfx90a:sramecc+", "rocm:1": "AMD Instinct MI210, gfx90a:sramecc+"}),
        (0, {"rocm": "this machine has no rocm device"}),
    ],
)
def test_the_list_of_devices(tmp_path, count, wanted):
    command = [sys.executable, "-P", "-m", "kompilo", "devices", "--json"]
    env = environment(None, devices=count, gfx="gfx90a:sramecc+", name="AMD Instinct MI210")
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=True)
    found = [d for d in json.loads(done.stdout)["devices"] if d["name"].startswith("rocm")]
    assert {d["name"]: d["problem"] or d["capability"] for d in found} == wanted
