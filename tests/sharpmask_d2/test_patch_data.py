"""What the trainer says about data before the first iteration, and what it takes."""

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from instseg_d2.config import load_config
from instseg_d2.engine import Trainer, training_dicts
from instseg_d2.errors import DataError

POLYGON = [20, 20, 60, 20, 60, 60, 20, 60]


@pytest.fixture
def register(tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Register an image of 120 x 80 pixels with these annotations."""
    file = tmp_path / "image.png"
    cv2.imwrite(str(file), np.zeros((80, 120, 3), np.uint8))
    names = []

    def add(name: str, *annotations: dict, **metadata: object) -> None:
        record = {"file_name": str(file), "image_id": 1, "height": 80, "width": 120}
        record["annotations"] = list(annotations)
        DatasetCatalog.register(name, lambda: [copy.deepcopy(record) for _ in range(8)])
        MetadataCatalog.get(name).set(**metadata)
        names.append(name)

    yield add
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def annotation(**changes: object) -> dict:
    return {
        "segmentation": [POLYGON], "bbox": [20, 20, 40, 40], "bbox_mode": 1, "category_id": 0,
        **changes,
    }  # fmt: skip


def config(
    tiny_overrides: list[str], train: str, test: str, *more: str, name: str = "deepmask_r50"
) -> CfgNode:
    sets = ["DATASETS.TRAIN", f"({train})", "DATASETS.TEST", f"({test})", *more]
    family = "sparseinst" if name.startswith("sparse") else "sharpmask"
    cfg = load_config(f"{family}/{name}", [*tiny_overrides, *sets])
    cfg.freeze()
    return cfg


@pytest.mark.parametrize(
    ("annotations", "said"),
    [
        ([], "no annotated object"),
        ([annotation(iscrowd=1)], "no annotated object"),
        ([annotation(segmentation=None)], "only boxes"),
        ([annotation(bbox=[20, 20, 4, 40])], "too small to evaluate on.*TEST_MIN_SIDE 5"),
        ([annotation(), annotation(iscrowd=1, bbox=None)], "'bbox' is None"),
    ],
)
def test_a_useless_test_set_is_refused_before_the_training(
    register: Callable[..., None], tiny_overrides: list[str], annotations: list[dict], said: str
) -> None:
    register("good", annotation())
    register("useless", *annotations)
    for tests in ("'useless',", "'good', 'useless'"):
        with pytest.raises(DataError, match=f"(?s)'useless'.*{said}"):
            Trainer(config(tiny_overrides, "'good',", tests))


def test_test_sets_need_no_evaluator_of_whole_images(
    register: Callable[..., None], tiny_overrides: list[str], tmp_path: Path
) -> None:
    """Neither evaluator_type nor area and iscrowd; objects without a mask are left out."""
    register("good", annotation(), annotation(segmentation=None), thing_classes=["thing"])
    output = ["OUTPUT_DIR", str(tmp_path / "out"), "SOLVER.MAX_ITER", "1"]
    trainer = Trainer(config(tiny_overrides, "'good',", "'good',", *output))
    trainer.resume_or_load(resume=False)
    trainer.train()
    assert trainer.test_results["mask"]["mean IoU"] >= 0


def test_sets_of_different_classes_are_balanced_apart(
    register: Callable[..., None], tiny_overrides: list[str]
) -> None:
    register("a", annotation(category_id=1), thing_classes=["cat", "dog"])
    register("b", annotation(category_id=1), annotation(category_id=0), thing_classes=["car", "x"])
    register("c", annotation(category_id=1), thing_classes=["cat", "dog"])
    cfg = config(tiny_overrides, "'a', 'b', 'c'", "'a',", "SOLVER.IMS_PER_BATCH", "60")
    dicts = training_dicts(cfg)
    assert [record["vocabulary"] for record in dicts] == [0] * 8 + [1] * 8 + [0] * 8
    samples = [s for batch in islice(Trainer.build_train_loader(cfg), 10) for s in batch]
    # "dog", "x" and "car": two thirds have the id 1.
    shares = Counter(sample["category_id"] for sample in samples)
    assert shares[0] / 600 == pytest.approx(1 / 3, abs=0.08)
    assert all("vocabulary" not in r for r in training_dicts(config(tiny_overrides, "'b',", "")))
    with pytest.raises(DataError, match="'a' and 'b' have different classes"):
        training_dicts(
            config(
                tiny_overrides, "'a', 'b'", "", "MODEL.SPARSE_INST.DECODER.NUM_CLASSES", "2",
                name="sparse_inst_r50_giam",
            )
        )  # fmt: skip
