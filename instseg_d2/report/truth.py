"""The data set that results are reported on: a COCO annotation file and a folder of images."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_dict

from ..data.checks import load_registered
from ..data.coco_json import check_coco_content, read_coco_json
from ..errors import DataError

Entry = dict[str, Any]

SIZES = ("small", "medium", "large")
"""Objects below 32 x 32 pixels, below 96 x 96, and the others, as COCO divides them."""


@dataclass(frozen=True)
class Truth:
    """What is known of a data set.

    Attributes:
        name: for people.
        content: ``images``, ``annotations`` and ``categories`` as COCO has them.
        image_root: the folder that file names are relative to; "" if they are not; None: unknown.
        has_masks: whether every object has a mask.
    """

    name: str
    content: dict[str, Any]
    image_root: str | None
    has_masks: bool

    @cached_property
    def images(self) -> dict[Any, Entry]:
        """By id."""
        return {image["id"]: image for image in self.content["images"]}

    @cached_property
    def names(self) -> dict[Any, str]:
        """Category id -> name, in the order of ids, which is that of COCO's figures."""
        entries = sorted(self.content["categories"], key=lambda entry: entry["id"])
        return {entry["id"]: str(entry["name"]) for entry in entries}

    @cached_property
    def objects(self) -> dict[Any, list[Entry]]:
        """Image id -> annotations, those of unknown images and categories left out."""
        objects: dict[Any, list[Entry]] = {image_id: [] for image_id in self.images}
        for annotation in self.content["annotations"]:
            image_id, category_id = annotation["image_id"], annotation["category_id"]
            if image_id in objects and category_id in self.names:
                objects[image_id].append(annotation)
        return objects

    def counts_by_size(self) -> dict[str, int]:
        """Objects, crowds left out, by :data:`SIZES`."""
        areas = [o["area"] for group in self.objects.values() for o in group if not is_crowd(o)]
        places = np.searchsorted([32**2, 96**2], areas, side="right")
        counts = np.bincount(np.asarray(places, int), minlength=3).tolist()
        return dict(zip(SIZES, counts, strict=True))

    def file_of(self, image: Entry) -> str | None:
        """The path of an image; None if it is not known."""
        if self.image_root is None or not image.get("file_name"):
            return None
        return os.path.join(self.image_root, image["file_name"])


def is_crowd(annotation: Entry) -> bool:
    """Whether an annotation is one of a group of objects, which is not to be found."""
    return bool(annotation.get("iscrowd", 0))


def registered_truth(name: str) -> Truth:
    """A data set that is registered with Detectron2.

    Raises:
        DataError: it is not registered, or cannot be loaded or used.
    """
    metadata = MetadataCatalog.get(name)
    path = metadata.get("json_file")
    if not path or not os.path.isfile(path):
        load_registered(name)  # it may be written now; else this says what is wrong
        path = MetadataCatalog.get(name).get("json_file")
    if path and os.path.isfile(path):
        return file_truth(path, metadata.get("image_root"), name=name)
    return _checked(name, convert_to_coco_dict(name), "")


def file_truth(path: str, image_root: str | None, *, name: str | None = None) -> Truth:
    """Data of one's own.

    Args:
        path: a COCO annotation file.
        image_root: folder of the images; None for a report without pictures.
        name: for people; None: the file's name.

    Raises:
        DataError: the file cannot be read or used.
    """
    content = read_coco_json(path)
    annotations = content.get("annotations")
    masked = isinstance(annotations, list) and all(
        isinstance(entry, dict) and entry.get("segmentation") for entry in annotations
    )
    check_coco_content(content, path, "evaluation" if masked else "loading")
    if not isinstance(annotations, list):
        raise DataError(
            f"{path} has no list 'annotations', so results cannot be compared with it. The "
            "annotations of a test set are often not published; report on the validation set."
        )
    return _checked(name or os.path.basename(path), content, image_root)


def _checked(name: str, content: dict[str, Any], image_root: str | None) -> Truth:
    truth = Truth(name, content, image_root, _has_masks(content))
    for annotation in (entry for group in truth.objects.values() for entry in group):
        lacking = [key for key in ("area", "bbox") if key not in annotation]
        if lacking:
            raise DataError(
                f"{name}: annotation id {annotation['id']} of image id {annotation['image_id']} "
                f"lacks {', '.join(lacking)}, which COCO's evaluation needs; complete or remove it"
            )
    return truth


def _has_masks(content: dict[str, Any]) -> bool:
    return all(annotation.get("segmentation") for annotation in content["annotations"])
