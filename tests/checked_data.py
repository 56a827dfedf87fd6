"""Data sets that are loaded and checked, for the tests of what is checked."""

from detectron2.structures import BoxMode

from instseg_d2.data.checks import load_checked_dataset
from tests.coco_sample import SQUARE

KEY = "MODEL.SOME_MODEL.NUM_CLASSES"
NAME = "checks_test_data"


def load(name, *, num_classes=2, max_instances=100, for_training=True, **options):
    """What ``load_checked_dataset`` gives for a model of two classes."""
    return load_checked_dataset(
        name,
        num_classes=num_classes,
        classes_key=KEY,
        max_instances=max_instances,
        for_training=for_training,
        **options,
    )


def record(**change):
    """One image with one annotation, changed."""
    annotation = {
        "bbox": [1, 1, 8, 8],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": 0,
        "segmentation": [list(SQUARE)],
    }
    annotation.update(change)
    return {"image_id": "first", "height": 10, "width": 12, "annotations": [annotation]}
