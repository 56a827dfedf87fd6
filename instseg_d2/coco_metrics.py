"""COCO's figures of detections: by faster-coco-eval, or else by pycocotools.

The two give the same numbers; faster-coco-eval matches and accumulates in C++ and is several times
as fast. Images, categories and annotations are numbered from 1 on the way in. So ids may be of any
kind: faster-coco-eval itself would take ids of images for floats, and above 2^53 confuse them.
"""

import contextlib
import functools
import io
import logging
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import pycocotools.mask as mask_util
from detectron2.evaluation.coco_evaluation import COCOevalMaxDets
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from .errors import DataError, DependencyError
from .rle_masks import mask_areas, segmentation_rle

logger = logging.getLogger(__name__)

Task = Literal["bbox", "segm", "boundary"]
"""What overlaps are of: boxes, masks, or masks and their boundaries, whichever overlap less."""

Result = Mapping[str, Any]
"""One detection as COCO's result files have it: ``image_id``, ``category_id``, ``score``, ``bbox``
[x, y, width, height] and, for masks, ``segmentation`` (a compressed run-length code)."""

LOWEST_THRESHOLD = 0.5
"""Of the overlaps from which on COCO takes a detection for a found object."""

ONE_EMPTY_PIXEL = {"size": [1, 1], "counts": "1"}
"""The run-length code of the smallest mask."""


class CocoFigures(NamedTuple):
    """What COCO's evaluation gives for boxes or masks, in 0..1; -1 stands for "no such objects".

    Attributes:
        stats: (12,) AP, AP50, AP75, AP of small, medium and large objects; AR for each of three
            limits of detections per image, AR of small, medium and large objects.
        eval: ``precision`` (10 IoU thresholds, 101 recalls, categories, 4 areas, 3 limits) and
            ``recall`` (10, categories, 4, 3), float64; categories in the order of their ids.
        summary: ``stats`` as a text of 12 lines.
    """

    stats: np.ndarray
    eval: dict[str, np.ndarray]
    summary: str


@dataclass(frozen=True)
class Backend:
    """A package that evaluates.

    Attributes:
        name: on the package index.
        index: holds annotations; pycocotools' ``COCO`` or what behaves like it.
        evaluator: (ground truth, detections, task, highest limit of detections per image) ->
            pycocotools' ``COCOeval`` or what behaves like it.
    """

    name: str
    index: Callable[[], Any]
    evaluator: Callable[[Any, Any, Task, int], Any]


def _pycocotools_evaluator(truth: COCO, found: COCO, task: Task, limit: int) -> COCOeval:
    if task == "boundary":
        raise DependencyError(
            "pycocotools does not compute boundary AP: pip install faster-coco-eval"
        )
    # pycocotools' own summary knows no other highest limit than 100.
    return (COCOeval if limit == 100 else COCOevalMaxDets)(truth, found, task)


PYCOCOTOOLS = Backend("pycocotools", COCO, _pycocotools_evaluator)


@functools.cache
def default_backend() -> Backend:
    """faster-coco-eval; pycocotools, with a warning on the first call, where that is absent."""
    try:
        from faster_coco_eval import COCO as FasterCOCO
        from faster_coco_eval import COCOeval_faster
    except ImportError as error:
        logger.warning(
            "faster-coco-eval cannot be imported (%s): COCO's evaluation is done by pycocotools, "
            "which gives the same numbers and takes several times as long. "
            "To install it: pip install faster-coco-eval",
            error,
        )
        return PYCOCOTOOLS

    def evaluator(truth: Any, found: Any, task: Task, limit: int) -> Any:
        return COCOeval_faster(truth, found, task, print_function=print)

    return Backend("faster-coco-eval", FasterCOCO, evaluator)


class CocoTruth:
    """The annotations of a data set, numbered."""

    def __init__(self, dataset: Mapping[str, Any]) -> None:
        """
        Args:
            dataset: the content of a COCO annotation file. It is neither changed nor copied.
        """
        self._images = dataset["images"]
        self._annotations = dataset["annotations"]
        self._image_numbers = _numbers(sorted(image["id"] for image in self._images))
        self._categories = _numbers(sorted(category["id"] for category in dataset["categories"]))
        self._annotation_numbers = _numbers(annotation["id"] for annotation in self._annotations)
        if 0 in self._annotation_numbers:
            # The evaluation notes which object a detection is matched with by its id, and takes 0
            # for none. The numbers are to be those of pycocotools, so 0 stays 0.
            self._annotation_numbers[0] = 0
            logger.warning(
                "An annotation has the id 0: COCO's evaluation counts detections of that object as "
                "false ones. Number annotations from 1."
            )

    def figures(
        self,
        results: Sequence[Result],
        task: Task,
        *,
        areas_of_masks: Sequence[int] | None = None,
        image_ids: Iterable[Hashable] | None = None,
        limits: Sequence[int] = (1, 10, 100),
        backend: Backend | None = None,
    ) -> CocoFigures:
        """Evaluate detections in boxes, in masks, or in masks with regard to their boundaries.

        The last, boundary AP (Cheng et al., "Boundary IoU", CVPR 2021, arXiv 2103.16562), is AP
        with the lower one of two overlaps, that of the masks and that of their boundaries: the
        pixels of a mask within 2 % of the image's diagonal (rounded, at least 1) from its edge,
        the image's border included.

        Args:
            results: none is changed. Those of unknown categories are passed over.
            areas_of_masks: pixels of each mask, if known; they save decoding the masks.
            image_ids: of the images to evaluate on; None for all of the data set.
            limits: three, ascending; of an image and category, so many detections of the best
                scores count. The last one is that of AP, and of AR by area.
            backend: None for :func:`default_backend`.

        Raises:
            DataError: a result or ``image_ids`` has an image that the data set does not have; an
                annotation lacks ``area``, or what it is compared by.
            DependencyError: the backend does not know boundaries.
        """
        backend = backend or default_backend()
        areas = self._areas(results, task, areas_of_masks)
        with silence():
            objects = list(self._numbered_annotations(task))
            found = self._numbered_results(results, areas, task)
            if task != "bbox":
                drop_lone_masks(found, objects)
            if task == "boundary":
                self._drop_loose_masks(found, objects)
            evaluator = backend.evaluator(
                self._index(backend, objects), self._index(backend, found), task, limits[-1]
            )
            evaluator.params.maxDets = list(limits)
            if image_ids is not None:
                evaluator.params.imgIds = self._chosen_images(image_ids)
            evaluator.evaluate()
            evaluator.accumulate()
            with contextlib.redirect_stdout(io.StringIO()) as summary:
                evaluator.summarize()
        arrays = {name: np.asarray(evaluator.eval[name]) for name in ("precision", "recall")}
        lines = summary.getvalue().splitlines()[:12]  # faster-coco-eval adds figures of its own
        return CocoFigures(np.asarray(evaluator.stats)[:12], arrays, "\n".join(lines))

    def _index(self, backend: Backend, annotations: list[dict[str, Any]]) -> Any:
        index = backend.index()
        index.dataset = {
            "images": list(self._image_entries()),
            "categories": list(self._category_entries()),
            "annotations": annotations,
        }
        index.createIndex()
        return index

    def _image_entries(self) -> Iterator[dict[str, Any]]:
        for image in self._images:
            yield {
                "id": self._image_numbers[image["id"]],
                "height": int(image["height"]),  # some programs write 640.0
                "width": int(image["width"]),
            }

    def _category_entries(self) -> Iterator[dict[str, Any]]:
        for number in self._categories.values():
            yield {"id": number}

    def _areas(
        self, results: Sequence[Result], task: Task, areas_of_masks: Sequence[int] | None
    ) -> list[float]:
        if task == "bbox":
            return [result["bbox"][2] * result["bbox"][3] for result in results]
        return list(areas_of_masks or mask_areas([result["segmentation"] for result in results]))

    def _numbered_annotations(self, task: Task) -> Iterator[dict[str, Any]]:
        keys = ("area", "bbox") if task == "bbox" else ("area", "segmentation")
        for annotation in self._annotations:
            image = self._image_numbers.get(annotation["image_id"])
            category = self._categories.get(annotation["category_id"])
            if image is None or category is None:
                continue
            try:
                values = {key: annotation[key] for key in keys}
            except KeyError as error:
                raise DataError(
                    f"annotation id {annotation['id']} of image id {annotation['image_id']} lacks "
                    f"{error.args[0]!r}, which COCO's evaluation needs; complete or remove it"
                ) from error
            yield {
                "id": self._annotation_numbers[annotation["id"]],
                "image_id": image,
                "category_id": category,
                "iscrowd": annotation.get("iscrowd", 0),
                **values,
            }

    def _numbered_results(
        self, results: Sequence[Result], areas: Sequence[float], task: Task
    ) -> list[dict[str, Any]]:
        self._check_images(result["image_id"] for result in results)
        key = "bbox" if task == "bbox" else "segmentation"
        images, categories = self._image_numbers, self._categories
        return [
            {
                "id": number,
                "image_id": images[result["image_id"]],
                "category_id": categories[result["category_id"]],
                "score": result["score"],
                "area": area,
                "iscrowd": 0,
                key: result[key],
            }
            for number, (result, area) in enumerate(zip(results, areas, strict=True), 1)
            if result["category_id"] in categories
        ]

    def _drop_loose_masks(self, found: list[dict[str, Any]], objects: list[dict[str, Any]]) -> None:
        """Replace, in place, the masks that overlap by less than half with every object of the same
        image and category: no threshold counts them as found, so their boundaries, which take most
        of the evaluation's time, do not matter."""
        sizes = {
            self._image_numbers[image["id"]]: (int(image["height"]), int(image["width"]))
            for image in self._images
        }
        by_place: dict[tuple[int, int], list[dict[str, Any]]] = {}
        for entry in objects:
            by_place.setdefault((entry["image_id"], entry["category_id"]), []).append(entry)
        groups: dict[tuple[int, int], list[dict[str, Any]]] = {}
        for entry in found:
            groups.setdefault((entry["image_id"], entry["category_id"]), []).append(entry)
        for place in groups.keys() & by_place.keys():
            there = by_place[place]
            overlaps = mask_util.iou(
                [entry["segmentation"] for entry in groups[place]],
                [segmentation_rle(entry["segmentation"], *sizes[place[0]]) for entry in there],
                [entry["iscrowd"] for entry in there],
            )
            for entry, best in zip(groups[place], overlaps.max(axis=1), strict=True):
                if best < LOWEST_THRESHOLD:
                    entry["segmentation"] = ONE_EMPTY_PIXEL

    def _chosen_images(self, image_ids: Iterable[Hashable]) -> list[int]:
        chosen = list(image_ids)
        self._check_images(chosen)
        return [self._image_numbers[image_id] for image_id in chosen]

    def _check_images(self, image_ids: Iterable[Hashable]) -> None:
        unknown = set(image_ids) - self._image_numbers.keys()
        if unknown:
            raise DataError(
                f"the annotations have no image of the id {min(unknown, key=str)!r}; predictions "
                "and annotations must be of the same data set"
            )


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """The packages print how far they are; of annotations with the id 0 we warn ourselves."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Found annotation id 0")
        yield


def drop_lone_masks(found: list[dict[str, Any]], objects: list[dict[str, Any]]) -> None:
    """Replace, in place, the masks that no overlap is computed of: no object of the same image and
    category is there. Reading the masks takes a good part of the evaluation's time."""
    occupied = {(entry["image_id"], entry["category_id"]) for entry in objects}
    for entry in found:
        if (entry["image_id"], entry["category_id"]) not in occupied:
            entry["segmentation"] = ONE_EMPTY_PIXEL


def _numbers(ids: Iterable[Hashable]) -> dict[Hashable, int]:
    """Ids, each once, to numbers from 1, in their order."""
    return {key: number for number, key in enumerate(dict.fromkeys(ids), 1)}
