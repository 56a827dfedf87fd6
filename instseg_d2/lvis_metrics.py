"""LVIS's figures of detections, by faster-coco-eval.

LVIS (Gupta, Dollar and Girshick, CVPR 2019, arXiv 1908.03195, section 3) has a thousand categories,
of which each image was searched for a few only. A detection counts if its category is in the image
or was looked for in vain; where a category was not annotated exhaustively, a detection without an
object is no false one. The 300 detections of the best scores count of each image. What has no area
does not count at all.

The numbers are those of the package ``lvis``, which today's NumPy does not run.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from .coco_metrics import CocoTruth, Result, default_backend, drop_lone_masks, silence
from .errors import DataError, DependencyError

LIMIT = 300
"""Detections of an image, of all categories, that count."""

FREQUENCIES = ("r", "c", "f")
"""Rare, common and frequent categories: in at most 10, at most 100 and more training images."""

AREAS = ("all", "small", "medium", "large")

CATEGORIES_AT_ONCE = 64
"""Memory is taken for all pairs of these and the images that have any of them."""


class LvisFigures(NamedTuple):
    """What LVIS's evaluation gives for boxes or masks, in 0..1; -1 stands for "no such objects".

    Attributes:
        stats: AP, AP50, AP75, APs, APm, APl by the area of objects, APr, APc, APf by the frequency
            of categories, and AR, ARs, ARm, ARl.
        precision: (10 IoU thresholds, 101 recalls, categories, 4 areas) float64; categories in the
            order of their ids.
        recall: (10, categories, 4) float64.
    """

    stats: dict[str, float]
    precision: np.ndarray
    recall: np.ndarray


class LvisTruth(CocoTruth):
    """The annotations of a data set in LVIS's format, numbered."""

    def __init__(self, dataset: Mapping[str, Any]) -> None:
        """
        Args:
            dataset: the content of an LVIS annotation file. It is neither changed nor copied.

        Raises:
            DataError: an image does not say which categories were looked for in vain or not
                exhaustively, or a category not how frequent it is.
        """
        super().__init__(dataset)
        self._frequency_of = {
            self._categories[category["id"]]: _value(category, "frequency", "category")
            for category in dataset["categories"]
        }
        unknown = set(self._frequency_of.values()) - set(FREQUENCIES)
        if unknown:
            raise DataError(
                f"a category's 'frequency' is {min(unknown, key=str)!r}; LVIS knows "
                "'r', 'c' and 'f', for rare, common and frequent"
            )
        self._absent = self._categories_by_image("neg_category_ids")
        self._not_exhaustive = self._categories_by_image("not_exhaustive_category_ids")

    def _categories_by_image(self, key: str) -> dict[int, set[int]]:
        return {
            self._image_numbers[image["id"]]: {
                self._categories[category]
                for category in _value(image, key, "image")
                if category in self._categories
            }
            for image in self._images
        }

    def _image_entries(self) -> Iterator[dict[str, Any]]:
        for entry in super()._image_entries():
            lists = {
                "neg_category_ids": self._absent[entry["id"]],
                "not_exhaustive_category_ids": self._not_exhaustive[entry["id"]],
            }
            yield {**entry, **lists}

    def _category_entries(self) -> Iterator[dict[str, Any]]:
        for entry in super()._category_entries():
            yield {**entry, "frequency": self._frequency_of[entry["id"]]}

    def lvis_figures(
        self,
        results: Sequence[Result],
        task: Literal["bbox", "segm"],
        *,
        areas_of_masks: Sequence[int] | None = None,
        limit: int = LIMIT,
    ) -> LvisFigures:
        """Evaluate detections in boxes or in masks.

        Args:
            results: none is changed. Those of unknown categories are passed over.
            areas_of_masks: pixels of each mask, if known; they save decoding the masks.
            limit: so many detections of an image, of the best scores, count.

        Raises:
            DataError: a result has an image that the data set does not have; an annotation lacks
                ``area``, or what it is compared by.
            DependencyError: faster-coco-eval is not installed.
        """
        objects = [
            {**entry, "iscrowd": 0}
            for entry in self._numbered_annotations(task)
            if entry["area"] > 0
        ]
        areas = self._areas(results, task, areas_of_masks)
        found = _best_of_images(self._numbered_results(results, areas, task), limit)
        found = self._those_that_count(found, objects)
        if task == "segm":
            drop_lone_masks(found, objects)
        precision = np.full((10, 101, len(self._categories), len(AREAS)), -1.0)
        recall = np.full((10, len(self._categories), len(AREAS)), -1.0)
        with silence():
            for numbers, part in self._evaluated(objects, found, task, limit):
                places = np.array(numbers) - 1
                precision[:, :, places] = part["precision"][..., 0]
                recall[:, places] = part["recall"][..., 0]
        return LvisFigures(self._stats(precision, recall), precision, recall)

    def _those_that_count(
        self, found: list[dict[str, Any]], objects: list[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """Those with an area, of categories that are in the image or known not to be; of categories
        without any object in the data set nothing is computed."""
        present = {(entry["image_id"], entry["category_id"]) for entry in objects}
        with_objects = {category for _, category in present}
        return [
            entry
            for entry in found
            if entry["area"] > 0
            and entry["category_id"] in with_objects
            and (
                (entry["image_id"], entry["category_id"]) in present
                or entry["category_id"] in self._absent[entry["image_id"]]
            )
        ]

    def _evaluated(
        self,
        objects: list[dict[str, Any]],
        found: list[dict[str, Any]],
        task: str,
        limit: int,
    ) -> Iterator[tuple[list[int], dict[str, np.ndarray]]]:
        """Numbers of some categories, and faster-coco-eval's arrays for them, until all that have
        objects have been."""
        backend = default_backend()
        if backend.name != "faster-coco-eval":
            raise DependencyError(
                "LVIS's evaluation needs faster-coco-eval: pip install faster-coco-eval"
            )
        from faster_coco_eval import COCOeval_faster

        images_of: dict[int, set[int]] = defaultdict(set)
        for entry in (*objects, *found):
            images_of[entry["category_id"]].add(entry["image_id"])
        truth, detections = self._index(backend, objects), self._index(backend, found)
        numbers = sorted(images_of)
        for start in range(0, len(numbers), CATEGORIES_AT_ONCE):
            chosen = numbers[start : start + CATEGORIES_AT_ONCE]
            evaluator = COCOeval_faster(
                truth, detections, task, print_function=print, lvis_style=True
            )
            evaluator.params.catIds = chosen
            evaluator.params.imgIds = sorted(set().union(*(images_of[key] for key in chosen)))
            evaluator.params.maxDets = [limit]
            evaluator.evaluate()
            evaluator.accumulate()
            yield chosen, {key: np.asarray(evaluator.eval[key]) for key in ("precision", "recall")}

    def _stats(self, precision: np.ndarray, recall: np.ndarray) -> dict[str, float]:
        frequency = np.array([self._frequency_of[key] for key in sorted(self._frequency_of)])
        whole = precision[..., 0]
        stats = {"AP": _mean(whole), "AP50": _mean(whole[0]), "AP75": _mean(whole[5])}
        for place, area in enumerate(AREAS[1:], 1):
            stats[f"AP{area[0]}"] = _mean(precision[..., place])
        for label in FREQUENCIES:
            stats[f"AP{label}"] = _mean(whole[:, :, frequency == label])
        stats["AR"] = _mean(recall[..., 0])
        for place, area in enumerate(AREAS[1:], 1):
            stats[f"AR{area[0]}"] = _mean(recall[..., place])
        return stats


def _value(entry: Mapping[str, Any], key: str, what: str) -> Any:
    """Raises ``DataError`` if the entry, an image or a category, lacks the key."""
    if key not in entry:
        raise DataError(
            f"{what} id {entry['id']} lacks {key!r}, which LVIS's evaluation needs. If the data "
            "set is in COCO's format, set its evaluator_type to 'coco'."
        )
    return entry[key]


def _best_of_images(found: Iterable[dict[str, Any]], limit: int) -> list[dict[str, Any]]:
    """Of each image so many of the best scores, at most; of equal ones the first."""
    by_image: dict[Hashable, list[dict[str, Any]]] = defaultdict(list)
    for entry in found:
        by_image[entry["image_id"]].append(entry)
    kept = []
    for entries in by_image.values():
        if len(entries) > limit:
            entries = sorted(entries, key=lambda entry: -entry["score"])[:limit]
        kept += entries
    return kept


def _mean(values: np.ndarray) -> float:
    """Of those that are known; -1 if there are none."""
    known = values[values > -1]
    return float(known.mean()) if known.size else -1.0
