import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as mask_util

from instseg_d2.errors import DataError
from sharpmask_d2.patch_crop import GREY, crop_image, crop_mask
from sharpmask_d2.patch_sampling import SamplingOptions, Window, mask_window

SIZE = 48
WINDOWS = st.builds(
    Window,
    x=st.floats(-40, 240),
    y=st.floats(-40, 160),
    scale=st.floats(-3, 3).map(lambda octaves: 2.0**octaves),
    flip=st.booleans(),
)


def ramp(height: int = 120, width: int = 200) -> np.ndarray:
    """Red grows to the right, green downwards, both by 1 a pixel; the first pixel's are 20."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.arange(width) + 20
    image[..., 1] = np.arange(height)[:, None] + 20
    return image


def places(window: Window, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the centres of the view's pixels are in the image: (x of columns, y of rows)."""
    offsets = (np.arange(size) + 0.5 - size / 2) / window.scale
    return window.x + (offsets[::-1] if window.flip else offsets), window.y + offsets


def iou(a: np.ndarray, b: np.ndarray) -> float:
    union = (a | b).sum()
    return float((a & b).sum() / union) if union else 1.0


# ---------------------------------------------------------------------------------------- images


def test_at_scale_one_it_is_a_slice() -> None:
    image = np.random.default_rng(0).integers(256, size=(60, 80, 3)).astype(np.uint8)
    patch = crop_image(image, Window(30, 25, 1.0), 20)
    assert patch.dtype == np.uint8
    np.testing.assert_array_equal(patch, image[15:35, 20:40].transpose(2, 0, 1))
    mirrored = crop_image(image, Window(30, 25, 1.0, flip=True), 20)
    np.testing.assert_array_equal(mirrored, patch[:, :, ::-1])


@given(WINDOWS)
def test_every_pixel_shows_its_place(window: Window) -> None:
    """Whatever place and scale: on a ramp the value says where a pixel comes from."""
    image = ramp()
    patch = crop_image(image, window, SIZE).astype(float)
    x, y = places(window, SIZE)
    margin = 2.5 * max(1, 1 / window.scale)  # what is nearer to the border mixes with the grey
    columns = (x > margin) & (x < 200 - margin)
    rows = (y > margin) & (y < 120 - margin)
    inside = np.ix_(rows, columns)
    expected_red = np.broadcast_to(x[columns] - 0.5 + 20, patch[0][inside].shape)
    expected_green = np.broadcast_to(y[rows][:, None] - 0.5 + 20, patch[1][inside].shape)
    rounding = 0.6 if window.scale >= 1 else 1.5
    np.testing.assert_allclose(patch[0][inside], expected_red, atol=rounding)
    np.testing.assert_allclose(patch[1][inside], expected_green, atol=rounding)
    assert (patch[2][inside] == 0).all()


@given(WINDOWS)
def test_beyond_the_borders_it_is_grey(window: Window) -> None:
    patch = crop_image(np.zeros((120, 200, 3), np.uint8), window, SIZE)
    x, y = places(window, SIZE)
    pixel = max(1 / window.scale, 0.5)  # what is nearer to the border mixes with the image
    outside_x = (x < -pixel) | (x > 200 + pixel)
    outside_y = (y < -pixel) | (y > 120 + pixel)
    assert (patch[:, :, outside_x] == GREY).all()
    assert (patch[:, outside_y] == GREY).all()
    margin = 2.5 * max(1, 1 / window.scale)
    inside_x = (x > margin) & (x < 200 - margin)
    inside_y = (y > margin) & (y < 120 - margin)
    assert (patch[0][np.ix_(inside_y, inside_x)] == 0).all()


def test_an_image_smaller_than_a_patch_stands_on_grey() -> None:
    patch = crop_image(np.zeros((4, 6, 3), np.uint8), Window(3, 2, 1.0), 192)
    dark = np.argwhere((patch == 0).all(0))
    assert dark.min(0).tolist() == [94, 93]
    assert dark.max(0).tolist() == [97, 98]
    assert (patch == GREY).all(0).sum() == 192 * 192 - 24


@pytest.mark.parametrize("scale", [0.5, 0.37, 0.25, 0.125])
def test_shrinking_does_not_alias(scale: float) -> None:
    """A chequerboard of single pixels is an even grey from afar."""
    image = np.zeros((800, 800, 3), np.uint8)
    image[(np.indices((800, 800)).sum(0) % 2).astype(bool)] = 255
    patch = crop_image(image, Window(401.3, 399.6, scale), SIZE).astype(float)
    assert np.abs(patch - 127.5).max() < 12


def test_only_the_pixels_needed_are_read() -> None:
    """Copying one of these in whole would take 120 GB."""
    image = np.broadcast_to(np.uint8(7), (200_000, 200_000, 3))
    assert (crop_image(image, Window(150_000, 100_000, 1.0), 64) == 7).all()
    rle = {"size": [200_000, 200_000], "counts": [150_000 * 200_000, 50_000 * 200_000]}
    mask = crop_mask(rle, (200_000, 200_000), Window(150_000, 100_000, 1.0), 64)
    assert mask.sum() == 32 * 64
    assert mask[:, 32:].all()


def test_other_memory_layouts() -> None:
    image = ramp()
    window = Window(3.3, 50.2, 0.7)
    patch = crop_image(np.ascontiguousarray(image[:, :, ::-1]), window, SIZE)
    np.testing.assert_array_equal(crop_image(image[:, :, ::-1], window, SIZE), patch)


# ----------------------------------------------------------------------------------------- masks


def circle(radius: float, x: float, y: float) -> list[float]:
    angles = np.linspace(0, 2 * np.pi, 100, endpoint=False)
    points = np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], 1)
    return points.reshape(-1).tolist()


@given(WINDOWS)
def test_a_circle_in_all_codes_is_where_it_should_be(window: Window) -> None:
    height, width = 120, 200
    polygon = circle(37.3, 101.6, 55.2)
    rle = mask_util.merge(mask_util.frPyObjects([polygon], height, width))
    x, y = places(window, SIZE)
    distance = np.hypot(x - 101.6, y[:, None] - 55.2)
    # Pixels of the view, and of the image, round the outline.
    sure = np.abs(distance - 37.3) > 1 / window.scale + 1
    expected = distance < 37.3
    for segmentation in ([polygon], rle):
        mask = crop_mask(segmentation, (height, width), window, SIZE)
        assert mask.dtype == bool
        assert mask.shape == (SIZE, SIZE)
        assert (mask == expected)[sure].all()


def test_uncompressed_code_is_the_same() -> None:
    mask = mask_util.decode(mask_util.merge(mask_util.frPyObjects([circle(9, 20, 15)], 30, 50)))
    flat = mask.ravel(order="F")
    counts = np.diff([0, *(np.flatnonzero(np.diff(flat)) + 1), flat.size]).tolist()
    window = Window(18, 13, 2.3, True)
    views = [
        crop_mask(segmentation, (30, 50), window, SIZE)
        for segmentation in (mask_util.encode(mask), {"size": [30, 50], "counts": counts})
    ]
    np.testing.assert_array_equal(*views)
    assert 0 < views[0].sum() < SIZE**2


def test_parts_are_joined_and_short_ones_left_out() -> None:
    left, right = [2, 2, 8, 2, 8, 12, 2, 12], [12, 2, 18, 2, 18, 12, 12, 12]
    window = Window(10, 10, 1.0)
    mask = crop_mask([left, right, [1, 1, 5, 5]], (20, 20), window, 20)
    expected = np.zeros((20, 20), bool)
    expected[2:12, 2:8] = expected[2:12, 12:18] = True
    np.testing.assert_array_equal(mask, expected)
    assert not crop_mask([[1, 1, 5, 5]], (20, 20), window, 20).any()


@pytest.mark.parametrize("scale", [0.3, 0.8, 1.0, 1.7, 5.0])
def test_mask_and_image_fit(scale: float) -> None:
    """The object is the white part of the image: what is white in the patch is in the mask."""
    mask = np.zeros((300, 400), np.uint8)
    cv2.ellipse(mask, (210, 140), (70, 40), 30, 0, 360, 1, -1)
    image = np.repeat(mask[..., None] * np.uint8(255), 3, axis=2)
    window = Window(262.4, 163.7, scale, True)  # at the end of the ellipse
    white = crop_image(image, window, 160)[0] > GREY + 1
    rle = mask_util.encode(np.asfortranarray(mask))
    got = crop_mask(rle, (300, 400), window, 160)
    assert 0 < white.sum() < 160**2
    assert iou(got, white) > 0.99
    half = crop_mask(rle, (300, 400), window.resized(0.5), 80)
    assert iou(half, cv2.resize(white.astype(np.uint8), (80, 80), None, 0, 0, 3) > 0) > 0.93


def test_the_window_is_the_patch_without_its_context() -> None:
    rng = np.random.default_rng(0)
    mask = (cv2.GaussianBlur(rng.random((200, 200)), (0, 0), 6) > 0.5).astype(np.uint8)
    rle = mask_util.encode(np.asfortranarray(mask))
    for flip in (False, True):
        window = Window(97.3, 104.8, 0.9, flip)
        patch = crop_mask(rle, (200, 200), window, 192)
        np.testing.assert_array_equal(
            crop_mask(rle, (200, 200), window, 160), patch[16:-16, 16:-16]
        )


@pytest.mark.parametrize(
    "polygon",
    [[0, 0, 9, 0, float("nan"), 9], [0, 0, 9, 0, float("inf"), 9], [0, 0, 9, 0, 9], [[0, 0, 9, 0]]],
)
def test_damaged_polygons(polygon: list) -> None:
    with pytest.raises(DataError, match="polygon"):
        crop_mask([polygon], (20, 20), Window(10, 10, 1.0), 20)


@given(WINDOWS, st.integers(0, 2**31))
def test_polygons_end_at_the_borders(window: Window, seed: int) -> None:
    """As if they were drawn on a larger canvas, and what is beyond the image cut off."""
    height, width, reach = 120, 200, 100
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * np.pi, 12))
    star = np.stack([np.cos(angles), np.sin(angles)], 1) * rng.uniform(40, 90, (12, 1))
    star += (rng.choice([0, width]), rng.choice([0, height]))
    mask = crop_mask([star.reshape(-1).tolist()], (height, width), window, SIZE)
    moved = (star + reach).reshape(-1).tolist()
    canvas = (height + 2 * reach, width + 2 * reach)
    whole = crop_mask([moved], canvas, window.in_crop(-reach, -reach), SIZE)
    x, y = (centres * window.scale for centres in places(window, SIZE))
    for sure, inside in ((1, True), (-1, False)):
        columns = (x > sure) & (x < width * window.scale - sure)
        rows = ((y > sure) & (y < height * window.scale - sure))[:, None]
        if inside:
            # Outlines begin at the border, so they are rounded otherwise.
            assert (mask != whole)[rows & columns].sum() <= 0.01 * SIZE**2
        else:
            assert not mask[~(rows & columns)].any()


@pytest.mark.parametrize("far", [3e3, 1e9, 1e150])
def test_a_polygon_without_bounds_is_all_of_the_image(far: float) -> None:
    """Drawing it whole would take all memory."""
    polygon = [-far, -far, far, -far, far, far, -far, far]
    mask = crop_mask([polygon], (20, 30), Window(15, 10, 1.0), 40)
    expected = np.zeros((40, 40), bool)
    expected[10:30, 5:35] = True
    np.testing.assert_array_equal(mask, expected)


# ------------------------------------------------------------------------------------- real data


def coco_objects(shared: Path, count: int) -> list[tuple[dict, tuple[int, int]]]:
    """Annotations that patches are drawn around, with (height, width) of the image."""
    file = shared / "data" / "coco_tiny" / "coco" / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    objects = [
        (annotation, sizes[annotation["image_id"]])
        for annotation in content["annotations"]
        if not annotation["iscrowd"]
        and annotation["area"] >= 100
        and min(annotation["bbox"][2:]) >= 5
    ]
    return objects[:: len(objects) // count]


def whole_mask(polygons: list, size: tuple[int, int], factor: int = 1) -> np.ndarray:
    """The naive way: draw all of it, ``factor`` times enlarged."""
    enlarged = [(np.array(polygon) * factor).tolist() for polygon in polygons]
    height, width = (side * factor for side in size)
    return mask_util.decode(mask_util.merge(mask_util.frPyObjects(enlarged, height, width)))


def naive_view(mask: np.ndarray, window: Window, size: int) -> np.ndarray:
    """Resample all of the mask, finely, and take the mean of every pixel of the view."""
    fine = 4
    scale = window.scale * fine
    left, top, _, _ = window.box(size)
    matrix = np.array(
        [[scale, 0, scale * (0.5 - left) - 0.5], [0, scale, scale * (0.5 - top) - 0.5]]
    )
    drawn = cv2.warpAffine(mask.astype(np.float32), matrix, (size * fine, size * fine))
    view = cv2.resize(drawn, (size, size), interpolation=cv2.INTER_AREA) > 0.5
    return view[:, ::-1] if window.flip else view


@pytest.mark.needs_shared
def test_coco_masks_equal_the_naive_way(shared: Path) -> None:
    """Real outlines: the whole mask decoded, then cropped and resized, is the same view.

    A polygon is drawn finer here than the pixels of the image, so it is compared with a whole mask
    drawn finer as well; with one of the image's pixels it may differ by these.
    """
    rng = np.random.default_rng(0)
    fine = []
    for annotation, size in coco_objects(shared, 60):
        x, y, w, h = annotation["bbox"]
        window = mask_window((x, y, x + w, y + h), rng, SamplingOptions())
        polygons = annotation["segmentation"]
        plain = whole_mask(polygons, size)
        of_rle = crop_mask(mask_util.encode(plain), size, window, 160)
        assert iou(of_rle, naive_view(plain, window, 160)) >= 0.98

        of_polygons = crop_mask(polygons, size, window, 160)
        factor = int(np.clip(4 * window.scale, 1, 8))
        enlarged = whole_mask(polygons, size, factor)
        in_enlarged = window.in_crop(0, 0, 1 / factor)
        fine.append(iou(of_polygons, naive_view(enlarged, in_enlarged, 160)))
        # What differs from the plain way lies along the outline; very thin parts aside.
        around = np.ones((2 * int(np.ceil(1.5 * max(window.scale, 1))) + 1,) * 2)
        drawn = of_rle.astype(np.uint8)
        outline = cv2.dilate(drawn, around) != cv2.erode(drawn, around)
        assert ((of_rle != of_polygons) & ~outline).sum() <= 0.005 * of_rle.sum()
    assert np.mean(fine) >= 0.98
    assert np.min(fine) >= 0.9
