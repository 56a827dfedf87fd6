"""Detectron2's evaluator of COCO-format data, with a fast evaluation and results written whole."""

import contextlib
import copy
import gc
import itertools
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from detectron2.evaluation import COCOEvaluator
from detectron2.evaluation.coco_evaluation import (
    COCOeval,
    _evaluate_predictions_on_coco,
    instances_to_coco_json,
)
from detectron2.structures import Instances
from detectron2.utils import comm

from .atomic_file import written_whole
from .coco_metrics import Backend, CocoFigures, CocoTruth, default_backend
from .errors import ConfigError
from .json_list import JsonList
from .mask_encoding import encode_masks

logger = logging.getLogger(__name__)

RESULTS_FILE = "coco_instances_results.json"

Prediction = dict[str, Any]
"""Of one image: ``image_id``, results in COCO's form, and what helps to evaluate them."""

#: Fields of ``Instances`` -> what they are evaluated as, beside boxes.
TASK_OF_FIELD = {"pred_masks": "segm", "pred_keypoints": "keypoints"}


class FastCOCOEvaluator(COCOEvaluator):
    """``COCOEvaluator``, with the same results sooner.

    Three things differ. What is evaluated follows from the fields that instances have, so a model
    with masks that finds nothing is still evaluated in masks. ``coco_instances_results.json`` is
    there whole or not at all. ``instances_predictions.pth``, which would hold the same once more,
    is not written.

    Attributes:
        figures: task -> :class:`CocoFigures` of the last :meth:`evaluate`; AR is only here. In the
            main process.
    """

    results_file = RESULTS_FILE

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | None = None,
        *,
        tasks: Iterable[str] | None = None,
        distributed: bool = True,
        max_dets_per_image: int | None = None,
        backend: Backend | None = None,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            dataset_name: registered with Detectron2, loaded before.
            output_dir: folder for the results; None for none.
            tasks: of "bbox", "segm" and "keypoints"; None: by the fields of the instances.
            distributed: whether several processes each had a part of the images.
            max_dets_per_image: highest number of detections per image and category; None for 100.
            backend: what evaluates boxes and masks; None for :func:`.coco_metrics.default_backend`.
            kwargs: see ``COCOEvaluator``.
        """
        super().__init__(
            dataset_name,
            tasks=None if tasks is None else tuple(tasks),
            distributed=distributed,
            output_dir=output_dir,
            max_dets_per_image=max_dets_per_image,
            use_fast_impl=False,  # needs Detectron2's compiled extension
            **kwargs,
        )
        self._backend = backend
        self.figures: dict[str, CocoFigures] = {}
        self._before: Sequence[Prediction] = ()
        self._places: dict[Any, int] = {}
        self._keep: Callable[[Prediction], None] | None = None
        ids = self._metadata.get("thing_dataset_id_to_contiguous_id")
        self._category_ids = None if ids is None else {index: key for key, index in ids.items()}

    def go_on(
        self,
        before: Sequence[Prediction],
        image_ids: Iterable[Any],
        keep: Callable[[Prediction], None],
    ) -> None:
        """Evaluate what an earlier run predicted, too.

        Args:
            before: what that one gave to its ``keep``.
            image_ids: of all images; results are written in this order.
            keep: gets what is predicted of each image from now on; it can be written as JSON.
        """
        self._before, self._keep = before, keep
        self._places = {image_id: place for place, image_id in enumerate(image_ids)}

    def reset(self) -> None:
        self._predictions: list[Prediction] = list(self._before)

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """
        Args:
            inputs: with ``image_id``.
            outputs: with ``instances``: ``Instances`` with ``pred_boxes``, ``scores``,
                ``pred_classes`` and, as the model has them, ``pred_masks`` (a tensor or
                :class:`RLEMasks`) and ``pred_keypoints``; or with ``proposals``, see
                ``COCOEvaluator``.

        Raises:
            ConfigError: a class that the data set does not have.
        """
        for sample, output in zip(inputs, outputs, strict=True):
            prediction: Prediction = {}
            if "instances" in output:
                prediction = self._encode(output["instances"].to(self._cpu_device), sample)
            if "proposals" in output:
                prediction["proposals"] = output["proposals"].to(self._cpu_device)
            if prediction:
                self._predictions.append({"image_id": sample["image_id"], **prediction})
                if self._keep is not None and "proposals" not in prediction:
                    self._keep(self._predictions[-1])

    def _encode(self, instances: Instances, sample: Mapping[str, Any]) -> dict[str, Any]:
        """A :data:`Prediction` without the image's id."""
        fields = instances.get_fields()
        tasks = {"bbox", *(TASK_OF_FIELD[name] for name in fields if name in TASK_OF_FIELD)}
        masks = fields.get("pred_masks")
        plain = Instances(instances.image_size)
        for name, value in fields.items():
            if name != "pred_masks":
                plain.set(name, value)
        results = instances_to_coco_json(plain, sample["image_id"])
        areas: list[int] = []
        if masks is not None:
            rles, areas = encode_masks(masks)
            for result, rle in zip(results, rles, strict=True):
                result["segmentation"] = rle
        for result in results:
            result["category_id"] = self._category_id(result["category_id"])
        return {"instances": results, "mask_areas": areas, "tasks": sorted(tasks)}

    def _category_id(self, index: int) -> int:
        if self._category_ids is None:
            return index
        if index not in self._category_ids:
            raise ConfigError(
                f"a prediction has the class {index}, but the data set {self._metadata.name!r} has "
                f"{len(self._category_ids)} classes, counted from 0; the model is configured for "
                "more, or for another data set"
            )
        return self._category_ids[index]

    def evaluate(self, img_ids: Iterable[Any] | None = None) -> dict[str, dict[str, float]]:
        """Write the results and evaluate them.

        Args:
            img_ids: of the images to evaluate on; None for all of the data set.

        Returns:
            as ``COCOEvaluator``: ``{task: {metric: percentage}}``, with AP of every category; NaN
            for what cannot be computed, and for everything where nothing was found. Empty in
            processes but the main one, for no images, and for data without annotations.

        Raises:
            DataError: see :meth:`CocoTruth.figures`.
        """
        predictions = self._gathered_predictions()
        self._results: dict[str, dict[str, float]] = {}
        self.figures = {}
        if not predictions:
            if comm.is_main_process():
                logger.warning("There were no predictions to evaluate.")
            return {}
        if self._output_dir:
            os.makedirs(self._output_dir, exist_ok=True)
        if "proposals" in predictions[0]:
            self._eval_box_proposals(predictions)
        if "instances" in predictions[0]:
            with _no_garbage_collection():
                self._eval_predictions(predictions, img_ids)
        return copy.deepcopy(self._results)

    def _gathered_predictions(self) -> list[Prediction]:
        predictions = self._predictions
        if self._distributed:
            comm.synchronize()
            parts = comm.gather(predictions, dst=0)
            predictions = list(itertools.chain.from_iterable(parts))
        if self._places:
            predictions = sorted(predictions, key=lambda one: self._places[one["image_id"]])
        return predictions

    def _eval_predictions(
        self, predictions: list[Prediction], img_ids: Iterable[Any] | None = None
    ) -> None:
        """Fill ``_results`` and ``figures``."""
        if self._output_dir:
            path = os.path.join(self._output_dir, self.results_file)
            logger.info("Saving results to %s", path)
            write_results(path, (prediction["instances"] for prediction in predictions))
        if not self._do_evaluation:
            logger.info("The data set has no annotations, so there is nothing to evaluate with.")
            return
        results = [result for prediction in predictions for result in prediction["instances"]]
        areas = [area for prediction in predictions for area in prediction["mask_areas"]]
        image_ids = None if img_ids is None else list(img_ids)
        tasks = self._tasks or set().union(*(prediction["tasks"] for prediction in predictions))
        self._evaluate_tasks(sorted(tasks), results, areas, image_ids)

    def _evaluate_tasks(
        self,
        tasks: list[str],
        results: list[dict[str, Any]],
        areas: list[int],
        image_ids: list[Any] | None,
    ) -> None:
        truth = CocoTruth(self._coco_api.dataset)
        for task in tasks:
            outcome = None
            if results:
                outcome = self._evaluate_task(task, truth, results, areas, image_ids)
            self._results[task] = self._derive_coco_results(
                outcome, task, class_names=self._names_by_category()
            )

    def _names_by_category(self) -> list[str] | None:
        """The classes' names in the order of the figures: by category id."""
        names: list[str] | None = self._metadata.get("thing_classes")
        if names is None or self._category_ids is None:
            return names
        index_of = {category_id: index for index, category_id in self._category_ids.items()}
        return [names[index_of[category_id]] for category_id in sorted(index_of)]

    def _evaluate_task(
        self,
        task: str,
        truth: CocoTruth,
        results: list[dict[str, Any]],
        areas: list[int],
        image_ids: list[Any] | None,
    ) -> CocoFigures | COCOeval:
        if task == "keypoints":
            return _evaluate_predictions_on_coco(
                self._coco_api,
                copy.deepcopy(results),  # it writes into them
                task,
                kpt_oks_sigmas=self._kpt_oks_sigmas,
                cocoeval_fn=COCOeval,
                img_ids=image_ids,
                max_dets_per_image=self._max_dets_per_image,
            )
        backend = self._backend or default_backend()
        logger.info("Evaluating %s by %s", task, backend.name)
        figures = truth.figures(
            results,
            "segm" if task == "segm" else "bbox",
            areas_of_masks=areas,
            image_ids=image_ids,
            limits=self._max_dets_per_image,
            backend=backend,
        )
        logger.info("COCO's figures for %s:\n%s", task, figures.summary)
        self.figures[task] = figures
        return figures


def write_results(path: str, results_of_images: Iterable[list[dict[str, Any]]]) -> None:
    """Write results as one JSON list, image by image, so that its text need not fit into memory."""
    with written_whole(path) as file:
        entries = JsonList(file)
        for results in results_of_images:
            entries.add(results)
        entries.close()


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """The evaluation makes hundreds of thousands of small dicts, all of them in use: searching them
    again and again for garbage takes a fifth of its time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
