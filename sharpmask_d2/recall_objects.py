"""The annotated objects that proposals are to find.

They are read from a COCO annotation file and not from Detectron2's records, which drop objects that
COCO's evaluation counts, and have no areas. Crowd regions are left out: whatever proposals find of
them, no recall changes (see :mod:`sharpmask_d2.recall`). So is the key ``ignore``, which COCO's
evaluation overwrites with ``iscrowd``.
"""

from __future__ import annotations

import copy
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_dict
from detectron2.utils.file_io import PathManager

from instseg_d2.data.coco_json import check_coco_json, read_coco_json
from instseg_d2.data.segmentation_checks import outline_problem, polygon_problem, rle_problem
from instseg_d2.errors import DataError
from instseg_d2.rle_masks import RLE

Annotation = dict[str, Any]


@dataclass(frozen=True)
class ImageObjects:
    """The objects of one image, in pycocotools' order: by category id, then as in the file.

    Attributes:
        image_id: as in the annotation file.
        image_size: (height, width).
        annotation_ids: (G,), of any type; None where the file has none.
        boxes: (G, 4) float64, XYWH in pixels.
        areas: (G,) float64, pixels.
        segmentations: (G,) polygons or run-length codes; None for objects without a mask.
    """

    image_id: Any
    image_size: tuple[int, int]
    annotation_ids: tuple[Any, ...]
    boxes: np.ndarray
    areas: np.ndarray
    segmentations: tuple[Any, ...]

    @property
    def has_mask(self) -> np.ndarray:
        """(G,) bool."""
        return np.array([bool(segmentation) for segmentation in self.segmentations], bool)

    def rles(self) -> list[RLE]:
        """The masks of those that have one.

        Raises:
            DataError: a polygon or a run-length code that cannot be used.
        """
        masks = []
        for number, segmentation in zip(self.annotation_ids, self.segmentations, strict=True):
            if segmentation:
                where = _label(number, self.image_id)
                masks.append(rle_of(segmentation, self.image_size, where))
        return masks


class GroundTruth:
    """The objects of all images of a data set, by image id.

    An image id and its text are the same: proposal files may have either.
    """

    def __init__(self, content: dict[str, Any], name: str) -> None:
        """
        Args:
            content: of a COCO annotation file. ``iscrowd`` and ``area`` may lack: no crowd, and the
                area of the mask or else of the box. Without ``categories`` any category will do.
            name: of the data set, for people.

        Raises:
            DataError: an image or annotation that cannot be used.
        """
        self.name = name
        annotations = _annotations_by_image(content, name)
        self._images: dict[str, ImageObjects] = {}
        for image in content.get("images", ()):
            lacking = {"id", "height", "width"} - image.keys()
            if lacking:
                raise DataError(
                    f"{name}: image {image.get('id', image)!r} of the annotation file lacks "
                    f"{', '.join(sorted(lacking))}. Complete it."
                )
            key = str(image["id"])
            if key in self._images:
                raise DataError(
                    f"{name}: two images of the annotation file have the id {image['id']!r}. Give "
                    "each its own."
                )
            size = (int(image["height"]), int(image["width"]))
            self._images[key] = _image_objects(image["id"], size, annotations[image["id"]])
        if not self._images:
            raise DataError(f"{name} has no images: its annotation file lists none under 'images'.")

    def __len__(self) -> int:
        """The number of images."""
        return len(self._images)

    def __iter__(self) -> Iterator[ImageObjects]:
        return iter(self._images.values())

    def __getitem__(self, image_id: int | str) -> ImageObjects:
        """
        Raises:
            DataError: the data set has no such image.
        """
        try:
            return self._images[str(image_id)]
        except KeyError:
            some = next(iter(self)).image_id
            raise DataError(
                f"there are proposals for image id {image_id!r}, which {self.name} does not have "
                f"(one of its {len(self)} ids: {some!r}). Were they made for another data set or "
                "split?"
            ) from None

    def only(self, image_ids: Iterable[int | str]) -> GroundTruth:
        """The objects of some of its images.

        Raises:
            DataError: the data set does not have one of them.
        """
        part = copy.copy(self)
        part._images = {str(image_id): self[image_id] for image_id in image_ids}
        part.name = f"{self.name} ({len(part)} of its {len(self)} images)"
        return part


def read_ground_truth(json_file: str, name: str = "") -> GroundTruth:
    """The objects of a COCO annotation file.

    Args:
        json_file: a path, or what Detectron2's ``PathManager`` resolves.
        name: of the data set, for people; the path without.

    Raises:
        DataError: no such file, or one that cannot be used.
    """
    path = PathManager.get_local_path(json_file)
    if not os.path.isfile(path):
        raise DataError(
            f"{f'data set {name!r}: ' if name else ''}the annotation file {json_file} does not "
            "exist. Built-in data sets are looked for in the folder that the environment variable "
            "DETECTRON2_DATASETS names."
        )
    content = read_coco_json(path)
    if "annotations" not in content:
        raise DataError(
            f"{json_file} has no list 'annotations', as files of test images: recall cannot be "
            "computed without."
        )
    try:
        return GroundTruth(content, name or json_file)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        check_coco_json(path, "loading")  # says which entry is at fault, if it is a usual fault
        raise DataError(
            f"{json_file} cannot be used as a COCO annotation file ({type(error).__name__}: "
            f"{error}). Correct it."
        ) from error


def dataset_ground_truth(name: str) -> GroundTruth:
    """The objects of a registered data set: of its annotation file, or of its records where
    Detectron2 knows of none.

    Raises:
        DataError: no such data set, or one that cannot be used.
    """
    if name not in DatasetCatalog:
        raise DataError(
            f"data set {name!r} is not registered. Register it, or name its annotation file."
        )
    json_file = MetadataCatalog.get(name).get("json_file")
    if json_file is not None:
        return read_ground_truth(json_file, name)
    DatasetCatalog.get(name)  # on loading, many data sets tell Detectron2 what they are
    json_file = MetadataCatalog.get(name).get("json_file")
    if json_file is not None:
        return read_ground_truth(json_file, name)
    if MetadataCatalog.get(name).get("thing_classes") is None:
        raise DataError(
            f"data set {name!r} has no class names, which its conversion to COCO format needs. Set "
            f"them with MetadataCatalog.get({name!r}).set(thing_classes=[...])."
        )
    return GroundTruth(convert_to_coco_dict(name), name)


def rle_of(segmentation: Any, image_size: tuple[int, int], where: str) -> RLE:
    """One object's polygons or run-length code as a compressed code, as pycocotools makes it.

    Raises:
        DataError: it cannot be used; the message begins with ``where``.
    """
    if isinstance(segmentation, dict):
        problem = rle_problem(segmentation, *image_size)
    elif isinstance(segmentation, list):
        # pycocotools guesses by the first polygon what the others are; it bears short ones.
        problems = (outline_problem(polygon) for polygon in segmentation)
        problem = polygon_problem(segmentation[0]) or next(filter(None, problems), None)
    else:
        problem = f"'segmentation' is a {type(segmentation).__name__}"
    if problem is not None:
        raise DataError(f"{where}: {problem}. Correct or remove it.")
    if isinstance(segmentation, list):
        return mask_util.merge(mask_util.frPyObjects(segmentation, *image_size))
    if isinstance(segmentation["counts"], list):
        return mask_util.frPyObjects(segmentation, *image_size)
    return segmentation


def _annotations_by_image(content: dict[str, Any], name: str) -> dict[Any, list[Annotation]]:
    """The objects by image id; those of an image by category, else in the order of the file."""
    categories = {category["id"] for category in content.get("categories", ())}
    by_image = defaultdict(list)
    for annotation in content.get("annotations", ()):
        lacking = {"image_id", "category_id", "bbox"} - annotation.keys()
        number = annotation.get("id")
        if lacking:
            raise DataError(
                f"{name}: annotation id {number!r} lacks {', '.join(sorted(lacking))}. Complete or "
                "remove it."
            )
        if categories and annotation["category_id"] not in categories:
            raise DataError(
                f"{name}: annotation id {number!r} has category_id {annotation['category_id']!r}, "
                "which is not in the list 'categories'. Correct or remove it."
            )
        if not annotation.get("iscrowd", 0):
            by_image[annotation["image_id"]].append(annotation)
    for objects in by_image.values():
        objects.sort(key=lambda annotation: annotation["category_id"])
    return by_image


def _image_objects(
    image_id: Any, image_size: tuple[int, int], annotations: list[Annotation]
) -> ImageObjects:
    return ImageObjects(
        image_id,
        image_size,
        tuple(annotation.get("id") for annotation in annotations),
        np.array([_box(annotation) for annotation in annotations]).reshape(-1, 4),
        np.array([_area(annotation, image_size) for annotation in annotations], np.float64),
        tuple(annotation.get("segmentation") for annotation in annotations),
    )


def _box(annotation: Annotation) -> np.ndarray:
    """(4,) float64, XYWH."""
    try:
        box = np.array(annotation["bbox"], np.float64)
    except (TypeError, ValueError):
        box = np.empty(0)
    if box.shape != (4,) or not np.isfinite(box).all():
        raise DataError(
            f"{_label(annotation.get('id'), annotation['image_id'])}: 'bbox' is "
            f"{annotation['bbox']!r}; it needs 4 numbers, x, y, width, height. Correct or remove "
            "it."
        )
    return box


def _area(annotation: Annotation, image_size: tuple[int, int]) -> float:
    if "area" in annotation:
        return float(annotation["area"])
    segmentation = annotation.get("segmentation")
    if segmentation:
        where = _label(annotation.get("id"), annotation["image_id"])
        return float(mask_util.area(rle_of(segmentation, image_size, where)))
    return float(annotation["bbox"][2] * annotation["bbox"][3])


def _label(annotation_id: Any, image_id: Any) -> str:
    return f"annotation id {annotation_id!r} of image id {image_id!r}"
