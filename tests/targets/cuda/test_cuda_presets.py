"""Facts of NVIDIA's GPUs: names, published rates against what sizes and clocks give, the local GPU by a fake driver."""

from __future__ import annotations

import ctypes

import pytest

from kompilo.compiler.errors import TargetError
from kompilo.targets.cuda.local_gpu import local_spec
from kompilo.targets.cuda.presets import ARCHITECTURES, cuda_spec, preset_names, spec_of

# Consumer GPUs accumulate in float32 at half the rate, and are sold by that of int8.
HALF_RATE = {"rtx3090", "rtx4090"}


@pytest.mark.parametrize("name", [n for n in preset_names() if n not in ARCHITECTURES])
def test_published_rates_follow_from_sizes_and_clocks(name):
    spec = cuda_spec(name)
    derived = spec_of(name, spec.arch, spec.sms, spec.clock_hz, spec.bandwidth, spec.memory_bytes, spec.l2_bytes)
    for dtype, rate in spec.peak:
        expected = derived.peak_flops(dtype)
        if name in HALF_RATE and dtype not in ("float32", "float64", "int8"):
            expected /= 2
        assert rate == pytest.approx(expected, rel=0.1), dtype


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_an_architecture_stands_for_a_gpu(arch):
    assert cuda_spec(arch).arch == arch
    assert cuda_spec(arch).key != f"cuda-{arch}"
    assert set(cuda_spec(arch).matrix_dtypes) <= set(dict(cuda_spec(arch).peak))


def test_keys_differ():
    specs = {cuda_spec(name).key for name in preset_names()}
    assert len(specs) == len(preset_names()) - len(ARCHITECTURES)


def test_an_unknown_name():
    with pytest.raises(TargetError, match="unknown target 'cuda:gtx480': expected one of sm_75, .*h200"):
        cuda_spec("gtx480")


class Driver:
    """NVIDIA's driver with one GPU."""

    def __init__(self, name: str = "NVIDIA H200", arch: tuple[int, int] = (9, 0), status: int = 0, devices: int = 1):
        self.name, self.status, self.devices = name, status, devices
        self.attributes = {13: 1_980_000, 16: 132, 36: 3_201_000, 37: 6144, 38: 60 << 20, 75: arch[0], 76: arch[1]}

    def cuInit(self, flags):
        return self.status

    def cuDeviceGet(self, device, index):
        return 0 if index < self.devices else 101

    def cuDeviceGetAttribute(self, value, number, device):
        value._obj.value = self.attributes[number]
        return 0

    def cuDeviceGetName(self, text, size, device):
        text.value = self.name.encode()
        return 0

    def cuDeviceTotalMem_v2(self, value, device):
        value._obj.value = 150 << 30
        return 0


@pytest.mark.parametrize(
    ("name", "key"),
    [("NVIDIA H200", "cuda-h200"), ("NVIDIA H100 80GB HBM3", "cuda-h100"), ("NVIDIA Something", "cuda-something")],
)
def test_the_local_gpu(name, key):
    spec = local_spec(lambda _: Driver(name))
    assert (spec.key, spec.arch, spec.sms, spec.memory_bytes) == (key, "sm_90", 132, 150 << 30)
    assert spec.bandwidth == pytest.approx(4.8e12, rel=0.35)


def test_names_of_local_gpus_as_presets_have_them():
    driver = Driver("NVIDIA GeForce RTX 4090", (8, 9))
    driver.attributes[16] = 128
    assert local_spec(lambda _: driver).key == "cuda-rtx4090"


def missing(name: str) -> ctypes.CDLL:
    raise OSError(name)


@pytest.mark.parametrize(
    ("load", "said"),
    [
        (missing, r"NVIDIA's driver \(libcuda.so.1\) is not installed"),
        (lambda _: Driver(status=100), "NVIDIA's driver finds no GPU"),
        (lambda _: Driver(devices=0), "NVIDIA's driver finds no GPU"),
        (lambda _: Driver(status=3), "NVIDIA's driver gives error 3"),
    ],
)
def test_no_local_gpu(load, said):
    with pytest.raises(TargetError, match=f"cuda: {said}. Hint: .*cuda:a100"):
        local_spec(load)


def test_a_local_gpu_of_an_unknown_architecture():
    with pytest.raises(TargetError, match="architecture 'sm_61' of .* is not supported: expected one of sm_75"):
        local_spec(lambda _: Driver("Tesla P40", (6, 1)))
