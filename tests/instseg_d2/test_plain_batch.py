import numpy as np
import torch
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks

from instseg_d2.plain_batch import from_plain, to_plain


def test_a_batch_comes_back_through_a_file_that_runs_no_code(tmp_path) -> None:
    instances = Instances((4, 6))
    instances.gt_boxes = Boxes(torch.tensor([[0.0, 0.0, 2.0, 3.0]]))
    instances.gt_classes = torch.tensor([2])
    instances.gt_masks = BitMasks(torch.ones(1, 4, 6, dtype=torch.bool))
    polygons = Instances((4, 6))
    polygons.gt_masks = PolygonMasks([[np.array([0.0, 0.0, 2.0, 0.0, 2.0, 3.0])]])
    batch = [
        {"image": torch.zeros(3, 4, 6, dtype=torch.uint8), "file_name": "a.jpg", "image_id": 7,
         "instances": instances, "size": (np.int64(4), 6), "note": None},
        {"instances": polygons, "window": np.array([1.5, 2.5]), "label": -1, "flip": True},
    ]  # fmt: skip
    torch.save(to_plain(batch), tmp_path / "batch.pth")
    first, second = from_plain(torch.load(tmp_path / "batch.pth", weights_only=True))
    assert first["image"].dtype == torch.uint8
    assert (first["file_name"], first["image_id"], first["note"]) == ("a.jpg", 7, None)
    assert first["size"] == (4, 6)
    assert first["instances"].image_size == (4, 6)
    assert torch.equal(first["instances"].gt_boxes.tensor, instances.gt_boxes.tensor)
    assert torch.equal(first["instances"].gt_masks.tensor, instances.gt_masks.tensor)
    assert torch.equal(first["instances"].gt_classes, instances.gt_classes)
    assert (second["label"], second["flip"]) == (-1, True)
    assert np.array_equal(second["window"], [1.5, 2.5])
    original = polygons.gt_masks.polygons[0][0]
    assert np.array_equal(second["instances"].gt_masks.polygons[0][0], original)


def test_a_part_of_a_tensor_takes_no_more_than_itself() -> None:
    part = to_plain(torch.zeros(1000, 1000)[0, :5])
    assert part.untyped_storage().nbytes() == 5 * 4


def test_what_is_unknown_becomes_its_description() -> None:
    assert to_plain({"odd": {1, 2}}) == {"odd": "{1, 2}"}
