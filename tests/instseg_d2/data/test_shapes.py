"""Drawing of the shapes pictures: reproducible, consistent, varied."""

import numpy as np
import pytest

from instseg_d2.data.shapes import (
    CLASS_NAMES,
    MIN_VISIBLE_PIXELS,
    ShapeInstance,
    ShapesSpec,
    render_image,
)
from instseg_d2.errors import ConfigError

SPEC = ShapesSpec()
Rendered = tuple[np.ndarray, list[ShapeInstance]]


@pytest.fixture(scope="module")
def pictures() -> list[Rendered]:
    return [render_image(SPEC, "train", index) for index in range(200)]


def long_side(instance: ShapeInstance) -> int:
    ys, xs = np.nonzero(instance.mask)
    return int(max(np.ptp(ys), np.ptp(xs))) + 1


def test_same_arguments_same_picture() -> None:
    image, instances = render_image(SPEC, "train", 7)
    np.random.seed(99)  # global random state must not matter
    again, instances_again = render_image(ShapesSpec(num_train=3, num_val=5), "train", 7)
    np.testing.assert_array_equal(image, again)
    assert len(instances) == len(instances_again) > 0
    for one, other in zip(instances, instances_again, strict=True):
        assert (one.category, one.iscrowd) == (other.category, other.iscrowd)
        np.testing.assert_array_equal(one.mask, other.mask)


def test_global_random_state_is_left_alone() -> None:
    np.random.seed(5)
    expected = np.random.random(3)
    np.random.seed(5)
    render_image(SPEC, "val", 0)
    np.testing.assert_array_equal(np.random.random(3), expected)


def test_split_index_and_seed_all_change_the_picture() -> None:
    images = [
        render_image(SPEC, "train", 3)[0],
        render_image(SPEC, "val", 3)[0],
        render_image(SPEC, "train", 4)[0],
        render_image(ShapesSpec(seed=1), "train", 3)[0],
    ]
    assert len({image.tobytes() for image in images}) == 4


def test_types_and_sizes(pictures: list[Rendered]) -> None:
    upright = 0
    for image, instances in pictures:
        height, width = image.shape[:2]
        assert image.dtype == np.uint8
        assert image.shape[2] == 3
        assert min(height, width) == 128
        assert max(height, width) <= round(128 * 4 / 3)
        upright += height > width
        for instance in instances:
            assert instance.mask.dtype == bool
            assert instance.mask.shape == (height, width)
            assert instance.mask.sum() >= MIN_VISIBLE_PIXELS
            assert 0 <= instance.category < len(CLASS_NAMES)
    assert 60 < upright < 140


@pytest.mark.parametrize("image_size", [48, 301])
def test_image_size_is_the_short_side_and_scales_the_objects(image_size: int) -> None:
    spec = ShapesSpec(image_size=image_size)
    sides = []
    for index in range(30):
        image, instances = render_image(spec, "train", index)
        assert min(image.shape[:2]) == image_size
        sides += [long_side(i) / image_size for i in instances]
    assert 0.15 < np.median(sides) < 0.4


def test_no_pixel_belongs_to_two_instances(pictures: list[Rendered]) -> None:
    for _, instances in pictures:
        if instances:
            assert np.sum([i.mask for i in instances], axis=0).max() == 1


def test_every_class_and_kind_of_image_occurs(pictures: list[Rendered]) -> None:
    objects = [[i for i in instances if not i.iscrowd] for _, instances in pictures]
    everything = [i for row in objects for i in row]
    counts = np.bincount([i.category for i in everything], minlength=len(CLASS_NAMES))
    assert counts.min() > 0.1 * counts.sum()
    assert 2.2 < np.mean([len(row) for row in objects]) < 2.8
    assert max(len(row) for row in objects) <= 6
    assert 1 <= sum(not instances for _, instances in pictures) <= 15
    sides = np.array([long_side(i) for i in everything])
    assert (sides <= 10).any(), "no tiny object"
    assert (sides >= 0.75 * 128).any(), "no huge object"


def test_crowds_are_regions_of_many_small_objects(pictures: list[Rendered]) -> None:
    crowds = [i for _, instances in pictures for i in instances if i.iscrowd]
    assert 1 <= len(crowds) <= 15
    assert all(long_side(crowd) > 0.2 * 128 for crowd in crowds)


def test_ring_has_a_hole_that_is_not_in_its_mask(pictures: list[Rendered]) -> None:
    holed = 0
    rings = [
        i for _, row in pictures for i in row if CLASS_NAMES[i.category] == "ring" and not i.iscrowd
    ]
    for ring in rings:
        ys, xs = np.nonzero(ring.mask)
        holed += not ring.mask[round(ys.mean()), round(xs.mean())]
    assert holed > 0.7 * len(rings) > 10


def test_masks_are_where_the_picture_shows_something(pictures: list[Rendered]) -> None:
    """An object's pixels differ from the pixels just around it, for nearly every object."""
    distances = []
    for image, instances in pictures:
        covered = np.any([i.mask for i in instances], axis=0) if instances else None
        for instance in instances:
            ys, xs = np.nonzero(instance.mask)
            window = (
                slice(max(ys.min() - 4, 0), ys.max() + 5),
                slice(max(xs.min() - 4, 0), xs.max() + 5),
            )
            around = ~covered[window]
            if around.sum() < 20:
                continue
            inside = image[window][instance.mask[window]].mean(0)
            distances.append(np.linalg.norm(inside - image[window][around].mean(0)))
    assert np.median(distances) > 70
    assert np.mean(np.array(distances) < 25) < 0.02


def test_a_mask_is_the_pixels_that_are_at_least_half_covered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """White objects on black: a pixel's brightness is its coverage."""
    rim_darkening = 0.45
    textures = "instseg_d2.data.shapes.textures"
    monkeypatch.setattr(f"{textures}.background", lambda _, h, w: (np.zeros((h, w, 3)), []))
    monkeypatch.setattr(f"{textures}.pick_colour", lambda *_: np.full(3, 255 / rim_darkening))
    monkeypatch.setattr(f"{textures}.object_surface", lambda _, c, h, w, d: np.full((h, w, 3), 255))
    checked = 0
    for index in range(60):
        image, instances = render_image(SPEC, "val", index)
        if len(instances) == 1 and not instances[0].iscrowd:
            np.testing.assert_array_equal(image[..., 0] >= 128, instances[0].mask)
            checked += 1
    assert checked >= 5


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_train", 0),
        ("num_val", -1),
        ("num_val", 2.5),
        ("num_train", True),
        ("image_size", 47),
        ("image_size", 1025),
        ("image_size", "128"),
        ("seed", -1),
        ("seed", None),
    ],
)
def test_spec_names_the_field_that_is_wrong(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=field):
        ShapesSpec(**{field: value})


@pytest.mark.parametrize(("split", "index"), [("test", 0), ("train", -1)])
def test_unknown_split_or_index(split: str, index: int) -> None:
    with pytest.raises(ValueError, match="no image"):
        render_image(SPEC, split, index)
