import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances

from instseg_d2.demo.detections import Wanted, enlarged, to_coco_results
from instseg_d2.errors import ConfigError
from instseg_d2.mask_encoding import encode_masks
from instseg_d2.rle_masks import RLEMasks

SIZE = (20, 30)


def square(top: int, left: int, side: int) -> torch.Tensor:
    mask = torch.zeros(SIZE, dtype=torch.bool)
    mask[top : top + side, left : left + side] = True
    return mask


def answer(masks=None, *, scores=(0.3, 0.9, 0.6), classes=(0, 1, 1)):
    """Three squares: the second and third nearly the same, of one class."""
    masks = [square(0, 0, 5), square(8, 8, 10), square(8, 9, 10)] if masks is None else masks
    found = Instances(SIZE)
    found.pred_masks = torch.stack(masks) if masks else torch.zeros((0, *SIZE), dtype=torch.bool)
    found.pred_boxes = BitMasks(found.pred_masks).get_bounding_boxes()
    found.scores = torch.tensor(scores)
    found.pred_classes = torch.tensor(classes, dtype=torch.int64)
    return {"instances": found}


def scores_of(wanted: Wanted, full_size=SIZE, **kwargs):
    return [round(score, 2) for score in wanted.of(answer(**kwargs), full_size).scores.tolist()]


def test_the_best_come_first_and_the_threshold_is_of_the_final_score():
    assert scores_of(Wanted(0.0)) == [0.9, 0.6, 0.3]
    assert scores_of(Wanted(0.5)) == [0.9, 0.6]
    assert scores_of(Wanted(1.0)) == []


def test_duplicates_are_dropped_within_a_class_alone():
    assert scores_of(Wanted(0.0, mask_nms=0.5)) == [0.9, 0.3]
    assert scores_of(Wanted(0.0, mask_nms=0.95)) == [0.9, 0.6, 0.3]
    assert scores_of(Wanted(0.0, mask_nms=0.5), classes=(0, 1, 2)) == [0.9, 0.6, 0.3]


def test_the_area_is_that_of_the_full_image():
    assert scores_of(Wanted(0.0, min_area=26)) == [0.9, 0.6]
    assert scores_of(Wanted(0.0, min_area=100)) == [0.9, 0.6]
    assert scores_of(Wanted(0.0, min_area=101)) == []
    assert scores_of(Wanted(0.0, min_area=100), full_size=(40, 60)) == [0.9, 0.6, 0.3]


def test_the_best_n_are_those_that_are_left():
    assert scores_of(Wanted(0.0, top=2)) == [0.9, 0.6]
    assert scores_of(Wanted(0.0, mask_nms=0.5, top=2)) == [0.9, 0.3]


def test_nothing_found_stays_nothing_with_all_fields():
    everything = Wanted(0.0, mask_nms=0.5, min_area=3, top=2)
    found = everything.of(answer([], scores=(), classes=()), SIZE)
    assert len(found) == 0
    assert to_coco_results(enlarged(found, (200, 300)), 1) == []


def test_proposals_become_detections_without_classes():
    proposals = Instances(SIZE)
    proposals.pred_masks = RLEMasks(encode_masks(square(2, 2, 4)[None]).rles, SIZE)
    proposals.proposal_boxes = Boxes(torch.tensor([[2.0, 2.0, 6.0, 6.0]]))
    proposals.objectness_logits = torch.tensor([0.0])
    proposals.extra = torch.tensor([7])
    found = Wanted(0.4).of({"proposals": proposals}, SIZE)
    assert found.scores.tolist() == [0.5]
    assert found.extra.tolist() == [7]
    (result,) = to_coco_results(found, 3)
    assert result["category_id"] == 1
    assert result["bbox"] == [2, 2, 4, 4]
    assert len(Wanted(0.5).of({"proposals": proposals}, SIZE)) == 0


def test_models_with_boxes_alone():
    found = answer()
    found["instances"].remove("pred_masks")
    assert len(Wanted(0.0, min_area=90).of(found, SIZE)) == 2
    assert "segmentation" not in to_coco_results(Wanted(0.0).of(found, SIZE), 1)[0]
    with pytest.raises(ConfigError, match="boxes only"):
        Wanted(0.0, mask_nms=0.5).of(found, SIZE)


def test_other_answers_are_refused():
    with pytest.raises(ConfigError, match="sem_seg"):
        Wanted().of({"sem_seg": torch.zeros(1)}, SIZE)


def test_results_of_a_reduced_image_are_at_its_full_size():
    found = Wanted(0.0).of(answer(), (60, 90))
    results = to_coco_results(enlarged(found, (60, 90)), 5, category_ids=[3, 8])
    assert [result["category_id"] for result in results] == [8, 8, 3]
    assert results[0]["bbox"] == [24, 24, 30, 30]
    mask = mask_util.decode(results[0]["segmentation"])
    wanted = np.kron(square(8, 8, 10).numpy(), np.ones((3, 3)))
    np.testing.assert_array_equal(mask, wanted)
    assert found.image_size == SIZE, "what is drawn stays at the reduced size"
