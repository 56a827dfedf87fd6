"""Which numbers an evaluation can give, so that a name of none is an error before the training."""

from __future__ import annotations

import difflib

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from ..errors import ConfigError
from ..families import family_of
from ..lvis_evaluator import METRICS as LVIS_METRICS

AP_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
# What Detectron2's own models may be evaluated in, too.
KEYPOINT_METRICS = ("AP", "AP50", "AP75", "APm", "APl")
BOX_PROPOSAL_METRICS = tuple(f"AR{area}@{limit}" for limit in (100, 1000) for area in ("", *"sml"))


def check_best_metric(cfg: CfgNode) -> None:
    """See that the evaluation of the (loaded) ``DATASETS.TEST`` may give ``TEST.BEST.METRIC``.

    Raises:
        ConfigError: it never does; the message has the names that are nearest.
    """
    metric, sets = cfg.TEST.BEST.METRIC, cfg.DATASETS.TEST
    if not metric:
        return
    names: list[str] = []
    for dataset in sets:
        known = known_metrics(cfg, dataset)
        prefix = f"{dataset}/" if len(sets) > 1 else ""
        if known is None and metric.startswith(prefix):
            return
        names += (f"{prefix}{name}" for name in known or ())
    if metric not in names:
        nearest = difflib.get_close_matches(metric, names, n=3, cutoff=0)
        raise ConfigError(
            f"TEST.BEST.METRIC is {metric!r}, which the evaluation does not give; the nearest "
            f"names are: {', '.join(nearest)}"
        )


def known_metrics(cfg: CfgNode, dataset_name: str) -> list[str] | None:
    """All that the evaluation of a (loaded) data set may give, as "task/metric"; None where that is
    not known."""
    family, metadata = family_of(cfg), MetadataCatalog.get(dataset_name)
    if family is not None and family.build_evaluator is not None:
        return None if family.known_metrics is None else list(family.known_metrics(cfg))
    classes = metadata.get("thing_classes") or ()
    of_classes = [f"AP-{name}" for name in classes] if len(classes) > 1 else []
    kind, tasks = metadata.get("evaluator_type"), {}
    if kind == "coco":
        tasks = {task: [*AP_METRICS, *of_classes] for task in ("bbox", "segm")}
        if family is None:
            tasks["keypoints"] = [*KEYPOINT_METRICS, *of_classes]
    elif kind == "lvis":
        tasks = {task: list(LVIS_METRICS) for task in ("bbox", "segm")}
    elif kind == "cityscapes_instance":
        return ["segm/AP", "segm/AP50"]
    else:
        return None
    if family is None:
        tasks["box_proposals"] = list(BOX_PROPOSAL_METRICS)
    return [f"{task}/{metric}" for task, metrics in tasks.items() for metric in metrics]
