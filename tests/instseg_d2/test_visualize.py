import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data.catalog import Metadata
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances
from matplotlib import pyplot

from instseg_d2.visualize import MIN_DRAWN_SIDE, draw_instances

GREY = 90
METADATA = Metadata(name="drawn", thing_classes=["cat", "dog"])


def grey(height=MIN_DRAWN_SIDE, width=400):
    return np.full((height, width, 3), GREY, np.uint8)


def square(height=MIN_DRAWN_SIDE, width=400, top=100, left=150, side=80):
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[top : top + side, left : left + side] = True
    return mask


def predictions(masks, scores=None, classes=None, size=(MIN_DRAWN_SIDE, 400)):
    instances = Instances(size)
    instances.pred_masks = torch.stack(masks) if masks else torch.zeros(0, *size, dtype=torch.bool)
    if scores is not None:
        instances.scores = torch.tensor(scores, dtype=torch.float32)
    if classes is not None:
        instances.pred_classes = torch.tensor(classes, dtype=torch.int64)
    return instances


def changed(picture, image):
    return (picture != image).any(axis=2)


@pytest.fixture(autouse=True)
def _no_global_figures():
    before = pyplot.get_fignums(), np.random.get_state()[1].tolist()
    yield
    assert (pyplot.get_fignums(), np.random.get_state()[1].tolist()) == before


@pytest.mark.parametrize(
    "nothing",
    [
        [],
        predictions([]),
        predictions([], [], []),
        predictions([square()], [0.1], [0]),
        Instances((MIN_DRAWN_SIDE, 400)),
        predictions([torch.zeros(MIN_DRAWN_SIDE, 400, dtype=torch.bool)], [0.9], [0]),
    ],
)
def test_nothing_to_draw_leaves_the_image(nothing):
    image = grey()
    np.testing.assert_array_equal(draw_instances(image, nothing, METADATA), image)


def test_mask_is_filled_where_it_is_and_nowhere_else():
    image = grey()
    picture = draw_instances(image, predictions([square()]))  # no class, no score: no label
    assert picture.dtype == np.uint8
    assert picture.shape == image.shape
    drawn = changed(picture, image)
    assert drawn[101:179, 151:229].all()
    drawn[98:182, 148:232] = False  # the outline may reach 2 pixels out
    assert not drawn.any()
    assert (image == GREY).all(), "the input is not to be drawn on"


def test_holes_stay_open():
    mask = square()
    mask[120:160, 170:210] = False
    image = grey()
    picture = draw_instances(image, predictions([mask]))
    drawn = changed(picture, image)
    assert not drawn[124:156, 174:206].any()
    assert drawn[102:118, 152:228].all()
    # The hole is outlined like the outside.
    assert picture[119, 190].tolist() == picture[100, 190].tolist() != picture[110, 190].tolist()


def test_labels_have_name_and_score():
    instances = [
        predictions([square()], [score], [category])
        for score, category in ((0.9, 1), (0.5, 1), (0.9, 0))
    ]
    pictures = [draw_instances(grey(), each, METADATA) for each in instances]
    assert (pictures[0] != pictures[1]).any()
    assert (pictures[0] != pictures[2]).any()


@pytest.mark.parametrize(("top", "left"), [(0, 360), (0, 0), (280, 0), (280, 360)])
def test_labels_stay_inside(top, left):
    def label_size(top, left):
        corner = square(top=top, left=left, side=40)
        picture = draw_instances(grey(), predictions([corner], [0.9], [1]), METADATA)
        dark = picture.max(axis=2) < 50  # the box behind the text
        return np.ptp(np.flatnonzero(dark.any(axis=0))), np.ptp(np.flatnonzero(dark.any(axis=1)))

    assert np.abs(np.subtract(label_size(top, left), label_size(150, 180))).max() <= 1


def test_labels_do_not_cover_each_other():
    pictures = [
        draw_instances(grey(), predictions([square(), square()], [0.9, 0.8], classes), METADATA)
        for classes in ([0, 0], [0, 1])
    ]
    np.testing.assert_array_equal(*pictures)


def test_min_score_acts_on_predictions():
    image = grey()
    low, high = square(left=20), square(left=250)
    both = predictions([low, high], [0.4, 0.8], [0, 1])
    drawn = changed(draw_instances(image, both, METADATA, min_score=0.5), image)
    assert drawn[140, 300]
    assert not drawn[:, :100].any()
    assert changed(draw_instances(image, both, METADATA, min_score=0.4), image)[110, 30]


def test_small_instances_lie_on_top_of_large_ones():
    image = grey()
    large, small = square(side=200, top=60), square(side=60, top=120, left=200)
    first = draw_instances(image, predictions([large, small]))
    colour_of_small = draw_instances(image, predictions([square(side=0), small]))
    alone = colour_of_small[150, 230].astype(int)
    below = draw_instances(image, predictions([large]))[150, 230].astype(int)
    assert np.abs(first[150, 230] - (0.55 * below + (alone - 0.55 * GREY))).max() <= 2


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 40), (64, 48), (319, 500)])
def test_small_images_are_enlarged_by_whole_numbers(height, width):
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[: (height + 1) // 2] = True
    image = grey(height, width)
    picture = draw_instances(image, predictions([mask], size=(height, width)))
    factor = picture.shape[0] // height
    assert picture.shape == (height * factor, width * factor, 3)
    assert (factor - 1) * min(height, width) < MIN_DRAWN_SIDE <= factor * min(height, width)
    drawn = changed(picture, GREY)
    edge = factor * ((height + 1) // 2)
    assert drawn[: edge - 1].all()
    assert not drawn[edge + 2 :].any()


def annotation(segmentation, **more):
    box = {"bbox": [150, 100, 80, 80], "bbox_mode": BoxMode.XYWH_ABS}
    return {"category_id": 1, "segmentation": segmentation, **box, **more}


def test_polygons_codes_and_masks_of_the_same_region_look_the_same():
    mask = square().numpy()
    code = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
    corners = [150, 100, 230, 100, 230, 180, 150, 180]
    runs = np.diff(np.flatnonzero(np.diff(np.r_[-1, mask.T.ravel(), -1]))).tolist()
    uncompressed = {"size": list(mask.shape), "counts": runs}
    pictures = [
        draw_instances(grey(), [annotation(segmentation)], METADATA)
        for segmentation in (mask, code, [corners], [np.array(corners)], uncompressed)
    ]
    assert changed(pictures[0], GREY)[140, 160]
    for picture in pictures[1:]:
        np.testing.assert_array_equal(picture, pictures[0])


def test_crowds_are_labelled_so():
    mask = square().numpy()
    plain = draw_instances(grey(), [annotation(mask, iscrowd=0)], METADATA)
    crowd = draw_instances(grey(), [annotation(mask, iscrowd=1)], METADATA)
    assert (plain != crowd).any()


def test_boxes_are_drawn_where_there_are_no_masks():
    truth = annotation(None)
    del truth["segmentation"]
    instances = Instances((MIN_DRAWN_SIDE, 400))
    instances.pred_boxes = Boxes(torch.tensor([[150.0, 100, 230, 180]]))
    instances.pred_classes = torch.tensor([1])
    for drawable in ([truth], instances):
        drawn = changed(draw_instances(grey(), drawable, METADATA), GREY)
        assert drawn[180, 150:230].all()
        assert drawn[100:180, 230].all()
        assert not drawn[150:170, 160:220].any()


def test_bit_masks_and_unknown_classes():
    instances = predictions([square()], [0.9], [7])
    expected = draw_instances(grey(), instances, None)
    np.testing.assert_array_equal(draw_instances(grey(), instances, METADATA), expected)
    instances.pred_masks = BitMasks(instances.pred_masks)
    np.testing.assert_array_equal(draw_instances(grey(), instances, METADATA), expected)


@pytest.mark.parametrize(
    "image",
    [grey()[..., :1], grey()[..., 0], grey().astype(np.float32), np.zeros((0, 5, 3), np.uint8)],
)
def test_other_images_are_refused(image):
    with pytest.raises(ValueError, match="expected uint8"):
        draw_instances(image, [])


def test_masks_of_another_size_are_refused():
    with pytest.raises(ValueError, match="masks"):
        draw_instances(grey(320, 401), predictions([square()]))
