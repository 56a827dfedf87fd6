import math
from dataclasses import replace

import numpy as np
import pytest
from detectron2.config import get_cfg
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from instseg_d2.errors import ConfigError
from sharpmask_d2.config import add_sharpmask_config
from sharpmask_d2.patch_sampling import (
    Box,
    SamplingOptions,
    Window,
    canonical_scale,
    mask_window,
    negative_window,
    positive_window,
)

OPTIONS = SamplingOptions()
BOX = (100.0, 50.0, 180.0, 90.0)  # 80 x 40, its centre is (140, 70)
DRAWS = 3000
BOXES = st.tuples(
    st.floats(-50, 700), st.floats(-50, 500), st.floats(1, 500), st.floats(1, 500)
).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))


def is_uniform(values: list[float], low: float, high: float) -> bool:
    """Within the limits, and a true uniform sample would look odder in 1 of 1000 cases."""
    values = np.asarray(values)
    inside = values.min() >= low - 1e-9 and values.max() <= high + 1e-9
    return bool(inside and stats.kstest(values, "uniform", (low, high - low)).pvalue > 1e-3)


@pytest.mark.parametrize(("window", "side"), [(160, 92), (224, 128), (112, 64)])
def test_an_object_fills_128_of_224_pixels(window: int, side: int) -> None:
    options = SamplingOptions(window_size=window)
    assert options.object_size == side
    assert options.patch_size == window + 32
    assert canonical_scale(BOX, options) == pytest.approx(side / 80)
    upright = (0.0, 0.0, 40.0, 80.0)
    assert canonical_scale(upright, options) == pytest.approx(side / 80)


def test_mask_windows_are_jittered_in_scale_and_place_and_mirrored() -> None:
    rng = np.random.default_rng(0)
    windows = [mask_window(BOX, rng, OPTIONS) for _ in range(DRAWS)]
    assert is_uniform([math.log2(w.scale / (92 / 80)) for w in windows], -0.25, 0.25)
    assert is_uniform([(w.x - 140) * w.scale for w in windows], -16, 16)
    assert is_uniform([(w.y - 70) * w.scale for w in windows], -16, 16)
    assert sum(w.flip for w in windows) / DRAWS == pytest.approx(0.5, abs=0.04)
    x_and_y = np.corrcoef([w.x - 140 for w in windows], [w.y - 70 for w in windows])
    assert abs(x_and_y[0, 1]) < 0.07


def test_positive_windows_are_centred_exactly() -> None:
    rng = np.random.default_rng(0)
    windows = [positive_window(BOX, rng, OPTIONS) for _ in range(DRAWS)]
    assert {(w.x, w.y) for w in windows} == {(140.0, 70.0)}
    assert is_uniform([math.log2(w.scale / (92 / 80)) for w in windows], -0.25, 0.25)
    assert sum(w.flip for w in windows) / DRAWS == pytest.approx(0.5, abs=0.04)


@given(BOXES, st.integers(0, 2**31))
def test_the_object_is_inside_the_window(box: Box, seed: int) -> None:
    window = mask_window(box, np.random.default_rng(seed), OPTIONS)
    left, top, right, bottom = window.box(OPTIONS.window_size)
    assert left < box[0]
    assert top < box[1]
    assert right > box[2]
    assert bottom > box[3]


def test_negatives_are_anywhere_where_there_is_nothing() -> None:
    rng = np.random.default_rng(0)
    nothing = np.zeros((0, 4))
    drawn = [negative_window((480, 640), nothing, rng, OPTIONS) for _ in range(DRAWS)]
    windows = [window for window in drawn if window]
    assert len(windows) == DRAWS
    assert is_uniform([w.x for w in windows], 0, 640)
    assert is_uniform([w.y for w in windows], 0, 480)
    assert is_uniform([math.log2(w.scale) for w in windows], -3, 2)


def is_near(window: Window, box: Box) -> bool:
    """The rule word for word: within 48 px, at patch scale, and within 2.5 octaves."""
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    canonical = 92 / max(box[2] - box[0], box[3] - box[1])
    distance = max(abs(window.x - x), abs(window.y - y)) * window.scale
    return distance < 48 and abs(math.log2(window.scale / canonical)) <= 2.5


@given(st.lists(BOXES, max_size=6), st.integers(0, 2**31))
def test_negatives_keep_their_distance(boxes: list[Box], seed: int) -> None:
    window = negative_window((480, 640), np.array(boxes), np.random.default_rng(seed), OPTIONS)
    assert window is not None
    assert not any(is_near(window, box) for box in boxes)
    assert 0 <= window.x <= 640
    assert 0 <= window.y <= 480
    assert 1 / 8 <= window.scale <= 4


def test_all_that_keeps_its_distance_is_drawn_equally_often() -> None:
    """Against plain rejection: the share in each part of place and scale."""
    rng = np.random.default_rng(0)
    box = (280.0, 200.0, 400.0, 260.0)
    drawn = [negative_window((480, 640), np.array([box]), rng, OPTIONS) for _ in range(DRAWS)]
    plain = [
        Window(rng.uniform(0, 640), rng.uniform(0, 480), 2 ** rng.uniform(-3, 2))
        for _ in range(2 * DRAWS)
    ]
    plain = [window for window in plain if not is_near(window, box)]
    for value in ("x", "y", "scale"):
        of_drawn = [getattr(window, value) for window in drawn]
        assert stats.ks_2samp(of_drawn, [getattr(w, value) for w in plain]).pvalue > 1e-3
    # In the middle of the object at another scale, and beside it at its own.
    inside = [w for w in drawn if w and abs(w.x - 340) < 30 and abs(w.y - 230) < 30]
    beside = [w for w in drawn if w and abs(math.log2(w.scale / (92 / 120))) < 0.5]
    assert inside
    assert beside


def test_a_full_image_has_no_negative() -> None:
    options = replace(OPTIONS, negative_octaves=10.0)
    everything = np.array([[0.0, 0.0, 20.0, 20.0]])
    assert negative_window((20, 20), everything, np.random.default_rng(0), options) is None


def test_boxes_without_extent_or_of_nan_do_no_harm() -> None:
    boxes = np.array([[5.0, 5.0, 5.0, 5.0], [np.nan, 0.0, 1.0, 1.0], [9.0, 9.0, 1.0, 1.0]])
    rng = np.random.default_rng
    got = negative_window((480, 640), boxes, rng(3), OPTIONS)
    assert got == negative_window((480, 640), boxes[:0], rng(3), OPTIONS)


def test_the_same_seed_gives_the_same_window() -> None:
    def drawn(seed: int) -> list[Window | None]:
        rng = np.random.default_rng(seed)
        boxes = np.array([BOX])
        return [
            mask_window(BOX, rng, OPTIONS),
            positive_window(BOX, rng, OPTIONS),
            negative_window((480, 640), boxes, rng, OPTIONS),
        ]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_a_window_of_the_crop_is_that_of_the_image() -> None:
    window = Window(140.0, 70.0, 0.5, True)
    left, top, right, bottom = window.box(160)
    assert (left, top, right, bottom) == (-20, -90, 300, 230)
    assert window.resized(0.7).box(112) == pytest.approx((left, top, right, bottom))
    inner = window.in_crop(40, 20, 2).box(160)
    assert inner == pytest.approx(
        ((left - 40) / 2, (top - 20) / 2, (right - 40) / 2, (bottom - 20) / 2)
    )


def test_options_of_the_config_are_the_defaults() -> None:
    cfg = get_cfg()
    add_sharpmask_config(cfg)
    assert SamplingOptions.from_config(cfg) == OPTIONS
    cfg.MODEL.SHARP_MASK.SAMPLING.NEGATIVE_SCALES = [-1.0, 1.0]  # a list in YAML
    cfg.MODEL.SHARP_MASK.CONTEXT = 32
    options = SamplingOptions.from_config(cfg)
    assert options == replace(OPTIONS, negative_scales=(-1.0, 1.0), context=32)


def test_rules_of_testing_are_in_proportion_to_the_window() -> None:
    assert OPTIONS.for_testing() == OPTIONS
    trained = SamplingOptions(
        window_size=80, object_scale=0.5, shift=3, scale=2, flip=0, min_area=7, min_side=2,
        negative_scales=(0, 1), negative_shift=1, negative_octaves=1, negative_trials=1,
        test_jitter=0.5, test_min_area=50, test_min_side=4,
    )  # fmt: skip
    expected = SamplingOptions(
        window_size=80, object_scale=0.5, shift=4, scale=0.125, flip=0.25, min_area=50, min_side=4,
        negative_shift=24, test_jitter=0.5, test_min_area=50, test_min_side=4,
    )  # fmt: skip
    assert trained.for_testing() == expected
    assert expected.for_testing() == expected


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MASK_SHARE", 1.5),
        ("POSITIVE_SHARE", -0.1),
        ("SCALE", -1.0),
        ("OBJECT_SCALE", 0.0),
        ("OBJECT_SCALE", 1.01),
        ("MIN_SIDE", 0.0),
        ("NEGATIVE_SCALES", (2.0, -3.0)),
        ("NEGATIVE_SCALES", (1.0,)),
        ("NEGATIVE_SCALES", ("a", "b")),
        ("NEGATIVE_SCALES", (-3.0, float("inf"))),
        ("NEGATIVE_SCALES", (float("nan"), 1.0)),
        ("TEST_JITTER", 1.1),
        ("TEST_MIN_SIDE", 0.0),
        ("NEGATIVE_TRIALS", 0),
        ("TEST_SEED", -1),
    ],
)
def test_values_out_of_range_name_their_key(key: str, value: object) -> None:
    cfg = get_cfg()
    add_sharpmask_config(cfg)
    cfg.MODEL.SHARP_MASK.SAMPLING[key] = value
    with pytest.raises(ConfigError, match=rf"MODEL\.SHARP_MASK\.SAMPLING\.{key} is"):
        SamplingOptions.from_config(cfg)
