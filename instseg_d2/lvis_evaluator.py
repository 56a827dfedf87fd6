"""Detectron2's evaluator of LVIS-format data, without the package ``lvis``."""

import logging
from typing import Any

from detectron2.utils.logger import create_small_table

from .coco_evaluator import FastCOCOEvaluator
from .errors import ConfigError
from .lvis_metrics import LIMIT, LvisFigures, LvisTruth

logger = logging.getLogger(__name__)

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")


class FastLVISEvaluator(FastCOCOEvaluator):
    """``LVISEvaluator``, with the same results; they are there whole or not at all.

    Of what cannot be computed the figure is NaN, as for COCO, and not -100.

    Attributes:
        lvis_figures: task -> figures of the last :meth:`evaluate`; AR is only here. In the main
            process.
    """

    results_file = "lvis_instances_results.json"

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | None = None,
        *,
        max_dets_per_image: int | None = None,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            dataset_name: registered with Detectron2, loaded before.
            output_dir: folder for the results; None for none.
            max_dets_per_image: highest number of detections of an image, of all categories; None
                for LVIS's 300.
            kwargs: ``tasks`` and ``distributed``, see :class:`.FastCOCOEvaluator`.
        """
        super().__init__(dataset_name, output_dir, **kwargs)
        self._limit = max_dets_per_image or LIMIT
        self.lvis_figures: dict[str, LvisFigures] = {}
        if self._category_ids is None:  # LVIS's categories are numbered without gaps
            count = len(self._coco_api.dataset["categories"])
            self._category_ids = {index: index + 1 for index in range(count)}
        for annotation in self._coco_api.anns.values():
            annotation.setdefault("iscrowd", 0)  # LVIS has none; of proposals it is asked for

    def _evaluate_tasks(
        self,
        tasks: list[str],
        results: list[dict[str, Any]],
        areas: list[int],
        image_ids: list[Any] | None,
    ) -> None:
        if image_ids is not None:
            raise ConfigError("LVIS is evaluated on all images of a data set, not on some")
        truth = LvisTruth(self._coco_api.dataset)
        self.lvis_figures = {}
        for task in tasks:
            if task not in ("bbox", "segm"):
                raise ConfigError(f"LVIS evaluates bbox and segm; {task!r} it does not know")
            if not results:
                logger.warning("Nothing was found: %s has no figures.", task)
                self._results[task] = dict.fromkeys(METRICS, float("nan"))
                continue
            figures = truth.lvis_figures(
                results,
                "segm" if task == "segm" else "bbox",
                areas_of_masks=areas,
                limit=self._limit,
            )
            self.lvis_figures[task] = figures
            found = {name: _percent(figures.stats[name]) for name in METRICS}
            logger.info("LVIS's figures for %s:\n%s", task, create_small_table(found))
            self._results[task] = found


def _percent(value: float) -> float:
    return 100 * value if value >= 0 else float("nan")
