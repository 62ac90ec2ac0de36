"""FoldPad: pads move into convolutions and poolings only where the numbers stay the same."""

import pytest
from tvm import relax

from kompilo.compiler.passes.fold_pad import FoldPad

from support import build, check, f32, ops, random

op = relax.op
SPATIAL = [0, 0, 0, 0, 1, 2, 3, 0]


def pad(x, widths=tuple(SPATIAL), value=0.0, mode="constant"):
    return op.nn.pad(x, list(widths), mode, value)


FOLDED = {
    "conv2d": lambda x: op.nn.conv2d(pad(x), random(0, 4, 3, 3, 3), padding=(1, 0, 0, 1)),
    "average counting its padding": lambda x: op.nn.avg_pool2d(pad(x), (3, 3), count_include_pad=True, padding=1),
    "average without padding": lambda x: op.nn.avg_pool2d(pad(x), (3, 3)),
    "maximum over the lowest number": lambda x: op.nn.max_pool2d(pad(x, value=float("-inf")), (2, 2), (2, 2)),
    "maximum over zeros behind relu": lambda x: op.nn.max_pool2d(pad(op.nn.relu(x)), (4, 4)),
}
KEPT = {
    "other pad value": lambda x: op.nn.conv2d(pad(x, value=1.0), random(0, 4, 3, 3, 3)),
    "reflect": lambda x: op.nn.conv2d(pad(x, mode="reflect"), random(0, 4, 3, 3, 3)),
    "channels padded": lambda x: op.nn.conv2d(pad(x, [0, 0, 0, 1, 1, 1, 1, 1]), random(0, 4, 4, 3, 3)),
    "average excluding its padding": lambda x: op.nn.avg_pool2d(pad(x), (3, 3), padding=1),
    "maximum over zeros": lambda x: op.nn.max_pool2d(pad(x), (4, 4)),
    "window of zeros only": lambda x: op.nn.max_pool2d(pad(op.nn.relu(x)), (2, 2)),
}


@pytest.mark.parametrize("name", FOLDED)
def test_folded(name):
    assert "nn.pad" not in ops(check(build([f32(1, 3, 7, 8)], FOLDED[name]), FoldPad()))


@pytest.mark.parametrize("name", KEPT)
def test_kept(name):
    mod = build([f32(1, 3, 7, 8)], KEPT[name])
    assert FoldPad().run(mod).same_as(mod)


def test_conv1d_and_conv3d():
    one = build([f32(1, 3, 9)], lambda x: op.nn.conv1d(pad(x, [0, 0, 0, 0, 2, 1]), random(0, 4, 3, 3)))
    three = build(
        [f32(1, 3, 4, 4, 4)],
        lambda x: op.nn.conv3d(pad(x, [0, 0, 0, 0, 2, 1, 0, 1, 1, 0]), random(0, 4, 3, 3, 3, 3)),
    )
    assert ops(check(one, FoldPad())) == ["nn.conv1d"]
    assert ops(check(three, FoldPad())) == ["nn.conv3d"]
