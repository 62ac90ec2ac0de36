"""What the cost model learns about kernels of windows."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from ....compiler.schedule.template import Config
from ....compiler.schedule.traits import Traits
from ..estimates import UNKNOWN_IMAGE, estimated
from ..spec import GpuSpec
from .windows import Window


def window_traits(window: Window, outputs: Sequence[int | str], spec: GpuSpec, configs: Sequence[Config]) -> Traits:
    """Traits of `configs`; `outputs` is the result's shape."""
    known = [estimated(d, UNKNOWN_IMAGE) for d in outputs]
    pixels = np.asarray([c.int("pixels") for c in configs], dtype=np.float64)
    threads = known[0] * known[1] * np.ceil(known[2] / pixels) * (known[3] / window.lanes)
    taps = prod(window.kernel)
    columns = (pixels - 1) * window.stride[1] + (window.kernel[1] - 1) * window.dilation[1] + 1
    loads = np.minimum(columns, pixels * window.kernel[1]) * window.kernel[0]
    lanes = spec.peak_flops("float32") / (2 * spec.clock_hz)
    return {
        "tile_rows": pixels,
        "tile_vectors": 1.0,
        "tiles": threads,
        "inner_trip": float(window.kernel[1]),
        "tile_steps": float(taps),
        "fma_cycles": float(prod(known) * taps) * spec.sms / lanes,
        "load_cycles": threads * loads,
        "lane_use": known[2] / (np.ceil(known[2] / pixels) * pixels),
        "items": threads,
        "imbalance": np.maximum(1.0, spec.sms * spec.threads_per_sm / threads),
        "input_traffic": threads * loads * window.lanes * 4,
    }
