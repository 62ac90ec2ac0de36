"""Features tell an operator's candidates apart, and traits say what they mean to say."""

import numpy as np
import pytest
from operators import OPERATORS, conv2d, cpu, matmul

from kompilo.compiler.schedule.template import Config
from kompilo.compiler.schedule.traits import TRAITS
from kompilo.compiler.tune.features import CONFIG, FEATURE_NAMES, features, ideal_cycles
from kompilo.compiler.tune.record import Point
from kompilo.compiler.tune.task import points_of

TARGET = cpu()


def column(op, points, name) -> np.ndarray:
    return features(op, TARGET, points)[:, FEATURE_NAMES.index(name)]


def direct(**knobs) -> Point:
    given = {"vectors": 2, "tile": 7, "rows": 4, "cols": 1 << 20, "blocks": 1 << 20, "chunks": 1, "pitch": 0}
    return Point("conv2d_direct", 1, Config.of(**(given | knobs), ahead="none"))


@pytest.mark.parametrize("op", OPERATORS.values(), ids=OPERATORS)
def test_every_template_tells_finite_traits_of_every_config(op):
    for template in TARGET.templates:
        space = template.match(op, TARGET.spec)
        if space is None:
            continue
        told = template.traits(op, TARGET.spec, tuple(space))
        assert set(told) <= set(TRAITS)
        assert {"fma_cycles", "load_cycles", "edge_cycles", "tiles", "items", "weight_traffic"} <= set(told)
        for name, values in told.items():
            values = np.broadcast_to(np.asarray(values, float), len(tuple(space)))
            assert np.isfinite(values).all(), name
            assert (values >= -1e-9).all(), name


@pytest.mark.parametrize("op", OPERATORS.values(), ids=OPERATORS)
def test_features_tell_all_candidates_of_an_operator_apart(op):
    points = points_of(op, TARGET)
    rows = features(op, TARGET, points)
    assert rows.shape == (len(points), len(FEATURE_NAMES))
    assert rows.dtype == np.float32
    assert len(np.unique(rows, axis=0)) == len(points)


@pytest.mark.parametrize("op", OPERATORS.values(), ids=OPERATORS)
def test_features_of_a_point_do_not_depend_on_the_others(op):
    points = points_of(op, TARGET)
    rows = features(op, TARGET, points)
    np.testing.assert_array_equal(features(op, TARGET, points[::-1]), rows[::-1])
    np.testing.assert_array_equal(features(op, TARGET, points[-1:]), rows[-1:])


@pytest.mark.parametrize("op", OPERATORS.values(), ids=OPERATORS)
def test_multiply_adds_take_at_least_the_ideal_time_but_for_winograd(op):
    points = points_of(op, TARGET)
    plain = [p for p in points if p.template != "conv2d_winograd"]
    share = 0.15 if op.kind == "conv2d_transpose" else 0.9  # one phase, or all taps of a pixel, stand for the whole
    assert (column(op, plain, "config.fma") >= share).all()


def test_winograd_does_fewer_multiply_adds_and_pays_for_transforms():
    op = OPERATORS["3x3 that Winograd matches"]
    points = [p for p in points_of(op, TARGET) if p.template == "conv2d_winograd"]
    assert (column(op, points, "config.multiply_share") < 0.7).all()
    assert (column(op, points, "config.transforms") > 0).all()
    assert set(column(op, points, "config.algorithm")) == {2, 3, 4}


def test_tails_of_rows_and_channels_are_counted():
    op = conv2d(28, 64, 96, kernel=3)
    exact, ragged = direct(tile=7), direct(tile=8)
    assert list(column(op, [exact, ragged], "config.tail_share") > 0) == [False, True]
    assert list(column(op, [exact, direct(vectors=4, tile=4)], "config.tail_share") > 0) == [False, True]
    # 96 channels are 6 vectors of 16: 2 + 2 + 2 or 4 + 2; rows of 28 pixels are 4 x 7 or 3 x 8 + 4.
    assert list(column(op, [exact, ragged], "config.tiles")) == [28 * 4 * 3, 28 * 4 * 3]


def test_footprints_of_panel_and_item():
    op = conv2d(28, 64, 96, kernel=3)
    (panel,) = column(op, [direct(vectors=2)], "config.panel_in_l1") * TARGET.spec.l1_bytes
    assert panel == 2 * 16 * 4 * 64 * 9
    (halved,) = column(op, [direct(vectors=2, chunks=2)], "config.panel_in_l1") * TARGET.spec.l1_bytes
    assert halved == panel / 2
    few, many = column(op, [direct(rows=2), direct(rows=14)], "config.input_in_l2")
    assert few < many
    assert list(column(op, [direct(rows=2), direct(rows=14)], "config.items")) == [14, 2]


def test_rows_that_share_cache_sets_are_seen():
    spread, colliding = (
        column(matmul(64, k, 64), points_of(matmul(64, k, 64), TARGET), "config.set_use").max() for k in (1000, 1024)
    )
    assert colliding > 1 > spread


def test_target_facts_are_features():
    op = matmul(64, 64, 64)
    wide, narrow = cpu("cascadelake,cores=2"), cpu("haswell,cores=8")
    for name, values in (("vector_bytes", (64, 32)), ("cores", (2, 8)), ("vector_registers", (32, 16))):
        found = [
            features(op, t, points_of(op, t)[:1])[0, FEATURE_NAMES.index(f"target.{name}")] for t in (wide, narrow)
        ]
        assert tuple(found) == values
    assert ideal_cycles(op, wide.spec) == 64**3 / (16 * 2)


def test_a_template_that_tells_nothing_has_missing_features():
    class Silent:
        name, version = "silent", 1

        def traits(self, op, target, configs):
            return {}

    class Quiet:
        spec, templates, drives_device = TARGET.spec, (Silent(),), False

    rows = features(matmul(8, 8, 8), Quiet(), [Point("silent", 1, Config.of(a=1))])
    assert np.isnan(rows[:, -len(CONFIG) :]).all()
    assert np.isfinite(rows[:, : -len(CONFIG)]).all()


def test_points_of_another_version_are_refused():
    op = matmul(8, 8, 8)
    point = points_of(op, TARGET)[0]
    with pytest.raises(KeyError):
        features(op, TARGET, [Point(point.template, 99, point.config)])
