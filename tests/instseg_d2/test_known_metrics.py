"""Names of metrics that are known before the training are those that the evaluators give."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation.lvis_evaluation import _evaluate_predictions_on_lvis
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.structures import Boxes, Instances

from instseg_d2.config import load_config
from instseg_d2.data.shapes import ShapesSpec
from instseg_d2.data.shapes_dataset import register_shapes
from instseg_d2.engine import Trainer
from instseg_d2.engine.known_metrics import check_best_metric, known_metrics
from instseg_d2.errors import ConfigError

SPARSEINST, SHARPMASK = "sparseinst/sparse_inst_r50_giam", "sharpmask/sharpmask_r50"
DETECTRON2 = ["MODEL.META_ARCHITECTURE", "GeneralizedRCNN", "MODEL.KEYPOINT_ON", "True"]


@pytest.fixture(autouse=True)
def _sets(clean_catalogs: None) -> None:
    for prefix in ("shapes", "more"):
        register_shapes(ShapesSpec(num_train=1, num_val=2, image_size=64), prefix)


def config(name: str, metric: str, *overrides: str, sets: str = "('shapes_val',)") -> CfgNode:
    return load_config(name, [*overrides, "DATASETS.TEST", sets, "TEST.BEST.METRIC", metric])


def evaluated_as(kind: str, classes: Sequence[str] = ("a", "b")) -> str:
    """The name of a data set."""
    metadata = MetadataCatalog.get(f"metrics_of_{kind}")
    metadata.set(evaluator_type=kind, thing_classes=list(classes))
    return f"metrics_of_{kind}"


def test_of_coco_data_they_are_those_of_the_evaluator(tmp_path: Path) -> None:
    cfg = config(SPARSEINST, "", "OUTPUT_DIR", str(tmp_path))
    evaluator = Trainer.build_evaluator(cfg, "shapes_val")
    evaluator.reset()
    for record in DatasetCatalog.get("shapes_val"):
        found = Instances((record["height"], record["width"]))
        found.pred_boxes = Boxes(torch.tensor([[0.0, 0, 9, 9]]))
        found.scores, found.pred_classes = torch.ones(1), torch.zeros(1, dtype=torch.int64)
        found.pred_masks = torch.ones(1, *found.image_size, dtype=torch.bool)
        evaluator.process([record], [{"instances": found}])
    given = flatten_results_dict(evaluator.evaluate())
    assert sorted(known_metrics(cfg, "shapes_val") or []) == sorted(given)


def test_of_one_class_there_is_no_ap_of_classes() -> None:
    name = evaluated_as("coco", ["shape"])
    assert "segm/AP-shape" not in (known_metrics(config(SPARSEINST, ""), name) or [])


def test_of_lvis_data_they_are_those_of_detectron2() -> None:
    names = known_metrics(config(SPARSEINST, ""), evaluated_as("lvis")) or []
    for task in ("bbox", "segm"):
        given = _evaluate_predictions_on_lvis(None, [], task)
        assert [name for name in names if name.startswith(task)] == [f"{task}/{m}" for m in given]
    assert len(names) == 2 * len(given)


@pytest.mark.parametrize(
    ("name", "overrides", "metric"),
    [
        (SPARSEINST, [], ""),
        (SPARSEINST, [], "segm/AP-ring"),
        ("", DETECTRON2, "keypoints/APl"),
        ("", DETECTRON2, "box_proposals/ARs@100"),
        (SHARPMASK, [], "coarse mask/IoU >= 0.5"),
        (SHARPMASK, ["MODEL.SHARP_MASK.EVALUATION", "proposals"], "mask_proposals/ARl@1000"),
    ],
)
def test_what_an_evaluation_may_give_is_let_through(
    name: str, overrides: list[str], metric: str
) -> None:
    check_best_metric(config(name, metric, *overrides))


@pytest.mark.parametrize(
    ("name", "overrides", "metric", "nearest"),
    [
        (SPARSEINST, [], "segm/ap", "segm/AP, "),
        (SPARSEINST, [], "mask/AP", "segm/AP, "),
        (SPARSEINST, [], "segm/AP-rign", "segm/AP-ring, "),
        (SPARSEINST, [], "keypoints/AP", ""),
        ("", DETECTRON2, "keypoints/APs", "keypoints/AP, "),
        (SHARPMASK, [], "mask/mean iou", "mask/mean IoU, "),
        (SHARPMASK, [], "mask_proposals/AR@100", ""),
        (SHARPMASK, ["MODEL.META_ARCHITECTURE", "DeepMask"], "coarse mask/mean IoU", ""),
    ],
)
def test_what_it_never_gives_is_refused_with_the_nearest_names(
    name: str, overrides: list[str], metric: str, nearest: str
) -> None:
    with pytest.raises(ConfigError, match=rf"METRIC is '{metric}'.*nearest names are: {nearest}"):
        check_best_metric(config(name, metric, *overrides))


def test_of_several_sets_the_names_have_their_own() -> None:
    sets = "('shapes_val', 'more_val')"
    check_best_metric(config(SPARSEINST, "more_val/bbox/AP50", sets=sets))
    with pytest.raises(ConfigError, match="are: shapes_val/segm/AP, "):
        check_best_metric(config(SPARSEINST, "shapes_val/segm/PA", sets=sets))


def test_evaluators_that_nobody_knows_are_let_through() -> None:
    sets = f"('shapes_val', '{evaluated_as('speech')}')"
    check_best_metric(config(SPARSEINST, "metrics_of_speech/words/right", sets=sets))
    with pytest.raises(ConfigError, match="shapes_val/words/right"):
        check_best_metric(config(SPARSEINST, "shapes_val/words/right", sets=sets))


@pytest.mark.parametrize("method", ["build_evaluator", "test", "evaluate"])
def test_a_trainer_that_evaluates_in_its_own_way_is_not_asked(method: str) -> None:
    derived = type("Derived", (Trainer,), {method: None})
    assert not derived._evaluates_as_usual()
    assert type("Derived", (Trainer,), {})._evaluates_as_usual()


def test_cityscapes_are_evaluated_in_masks_alone() -> None:
    sets = f"('{evaluated_as('cityscapes_instance')}',)"
    check_best_metric(config(SPARSEINST, "segm/AP50", sets=sets))
    with pytest.raises(ConfigError, match=r"'bbox/AP'.* are: segm/AP, segm/AP50$"):
        check_best_metric(config(SPARSEINST, "bbox/AP", sets=sets))
