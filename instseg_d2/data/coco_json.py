"""Faults in COCO annotations, named by image id and annotation id.

Detectron2 reads COCO files itself and keeps no annotation ids. So that a user still learns which
annotation to mend, the functions here read the raw file a second time: when loading has failed,
when a fault was found in the loaded records, and before an evaluation, which uses that file too.

``segmentation`` means what COCO means by it: a list of polygons ``[x0, y0, x1, y1, ...]``, in
pixels, or a run-length code ``{"size": [height, width], "counts": ...}``.
"""

from __future__ import annotations

import codecs
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from typing import Any, Literal

from detectron2.data import MetadataCatalog

from instseg_d2.data.rle_batch import MAX_SIDE
from instseg_d2.data.segmentation_checks import (
    crowd_problem,
    outline_problem,
    polygon_problem,
    rle_problem,
)
from instseg_d2.error_lines import system_message
from instseg_d2.errors import DataError, short_repr

MAX_FAULTS_SHOWN = 5

Purpose = Literal["loading", "training", "evaluation"]


class Faults:
    """Collects faults of one kind and raises them as one error that shows the first few."""

    def __init__(self) -> None:
        self.count = 0
        self.shown: list[str] = []

    def add(self, text: str) -> None:
        """Count a fault; ``text`` names the image or annotation and says what is wrong with it."""
        self.count += 1
        if len(self.shown) < MAX_FAULTS_SHOWN:
            self.shown.append(text)

    def raise_if_any(self, headline: str, advice: str) -> None:
        """Raise :class:`DataError` if there is a fault."""
        if not self.count:
            return
        lines = [
            headline.replace("{count}", str(self.count)),
            *(f"  {text}" for text in self.shown),
        ]
        if self.count > len(self.shown):
            lines.append(f"  and {self.count - len(self.shown)} more")
        raise DataError("\n".join([*lines, advice]))


def read_json(path: str) -> Any:
    """The content of a JSON file.

    Raises:
        DataError: it is absent or not JSON.
    """
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except OSError as error:
        raise DataError(system_message(error)) from error
    except (ValueError, RecursionError) as error:
        if (mark := _byte_order_mark(path)) is not None:
            raise DataError(
                f"{path} begins with a byte order mark ({mark}), as some programs on Windows write "
                "it. Save it as UTF-8 without that mark."
            ) from error
        raise DataError(
            f"{path} cannot be read as JSON ({error}). It may be damaged or copied only in part: "
            "fetch or write it again."
        ) from error


def _byte_order_mark(path: str) -> str | None:
    """The encoding whose mark a file begins with; None if it begins with none."""
    with open(path, "rb") as file:
        start = file.read(3)
    marks = {
        "UTF-8": codecs.BOM_UTF8,
        "UTF-16": codecs.BOM_UTF16_LE,
        "UTF-16 BE": codecs.BOM_UTF16_BE,
    }
    return next((name for name, mark in marks.items() if start.startswith(mark)), None)


def coco_file_of(name: str) -> str | None:
    """The annotation file of a data set in COCO format, None if it has none on this machine."""
    metadata = MetadataCatalog.get(name)
    json_file: str | None = metadata.get("json_file")
    if metadata.get("evaluator_type") != "coco" or not json_file or not os.path.isfile(json_file):
        return None
    return json_file


def read_coco_json(json_file: str) -> dict[str, Any]:
    """Read a COCO annotation file.

    Raises:
        DataError: not a JSON file, or not one whose top level is an object.
    """
    content = read_json(json_file)
    if not isinstance(content, dict):
        raise DataError(
            f"{json_file} is not a COCO annotation file: its top level is a "
            f"{type(content).__name__}, expected an object with the lists 'images', 'annotations' "
            "and 'categories'."
        )
    return content


def check_coco_json(json_file: str, purpose: Purpose) -> None:
    """Raise a :class:`DataError` for what Detectron2's loader or COCO's evaluation chokes on.

    What Detectron2 only warns about and drops (annotations of unknown images, polygons with fewer
    than 3 points) is no fault here.

    Args:
        json_file: a COCO instances annotation file.
        purpose: ``"loading"`` looks only for what stops the loader; ``"training"`` also wants
            annotations that belong to images; ``"evaluation"`` can do without annotations, but
            wants ``area``, ``iscrowd`` and ``segmentation`` in each, crowds included.
    """
    check_coco_content(read_coco_json(json_file), json_file, purpose)


def check_coco_content(content: dict[str, Any], json_file: str, purpose: Purpose) -> None:
    """As :func:`check_coco_json`, of what :func:`read_coco_json` returned."""
    needed = ["images", "categories"] + (["annotations"] if purpose == "training" else [])
    for key in needed:
        if not isinstance(content.get(key), list) or not content[key]:
            what = "has no list" if key not in content else "has nothing in the list"
            raise DataError(f"{json_file} {what} '{key}'. A COCO annotation file needs it.")

    _check_entries(content["images"], ("id", "file_name", "height", "width"), "image", json_file)
    _check_entries(content["categories"], ("id", "name"), "category", json_file)
    annotations = content.get("annotations", [])
    if not isinstance(annotations, list):
        raise DataError(f"{json_file}: its 'annotations' are no list. Correct that.")
    # Detectron2 admits these files too: the published ones repeat annotation ids.
    unique_ids = "minival" not in json_file
    keys = ("id", "image_id", "category_id")
    _check_entries(annotations, keys, "annotation", json_file, unique_ids=unique_ids)
    _check_annotations(content, json_file, purpose)


def _is_side(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < MAX_SIDE and value == int(value)


_VALUES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "id": ("a number or text", lambda value: type(value) in (int, float, str) and value == value),
    "file_name": ("text", lambda value: isinstance(value, str) and "\0" not in value),
    "name": ("text", lambda value: type(value) in (int, float, str)),
    "height": (f"a whole number below {MAX_SIDE}", _is_side),
    "width": (f"a whole number below {MAX_SIDE}", _is_side),
}
"""Key of an entry -> what it must be; other keys are ids."""


def _check_entries(
    entries: list[Any], keys: tuple[str, ...], kind: str, json_file: str, unique_ids: bool = True
) -> None:
    """Every entry is an object with these keys, and no two have the same id."""
    faults = Faults()
    for position, entry in enumerate(entries):
        lacking = [key for key in keys if not isinstance(entry, dict) or key not in entry]
        if lacking:
            is_known = isinstance(entry, dict) and "id" in entry
            known = f" (id {short_repr(entry['id'])})" if is_known else ""
            faults.add(f"{kind} number {position}{known}: lacks {', '.join(lacking)}")
    faults.raise_if_any(
        f"{json_file}: entries of kind '{kind}' that lack keys: {faults.count}",
        "Complete or remove them.",
    )
    for position, entry in enumerate(entries):
        for key in keys:
            expected, is_good = _VALUES.get(key, _VALUES["id"])
            if not is_good(entry[key]):
                faults.add(
                    f"{kind} number {position}: '{key}' is {short_repr(entry[key])}, expected "
                    f"{expected}"
                )
    faults.raise_if_any(
        f"{json_file}: entries of kind '{kind}' with values of another kind: {faults.count}",
        "Correct or remove them.",
    )
    repeated = _repeated(entry["id"] for entry in entries) if unique_ids else []
    for value in repeated:
        faults.add(f"{kind} id {short_repr(value)} occurs more than once")
    faults.raise_if_any(
        f"{json_file}: ids of kind '{kind}' that are not unique: {faults.count}",
        "Give each its own id.",
    )
    texts = [entry["id"] for entry in entries if isinstance(entry["id"], str)]
    if kind != "annotation" and 0 < len(texts) < len(entries):  # they are sorted by their ids
        number = next(entry["id"] for entry in entries if not isinstance(entry["id"], str))
        raise DataError(
            f"{json_file}: some ids of kind '{kind}' are text, others numbers, such as "
            f"{short_repr(texts[0])} and {short_repr(number)}. Write all of them in one way."
        )


def _repeated(values: Iterable[Hashable]) -> list[Hashable]:
    return [value for value, count in Counter(values).items() if count > 1]


def _check_annotations(content: dict[str, Any], json_file: str, purpose: Purpose) -> None:
    images = {image["id"]: image for image in content["images"]}
    categories = {category["id"] for category in content["categories"]}
    annotations = content.get("annotations", [])
    faults = Faults()
    orphans = 0
    for annotation in annotations:
        image = images.get(annotation["image_id"])
        if image is None:
            orphans += 1
            continue
        problem = _loading_problem(annotation, categories)
        if problem is None and purpose == "evaluation":
            problem = _evaluation_problem(annotation, image)
        if problem is not None:
            ids = short_repr(annotation["id"]), short_repr(image["id"])
            faults.add(f"annotation id {ids[0]} of image id {ids[1]}: {problem}")
    faults.raise_if_any(
        f"{json_file}: annotations that cannot be used: {faults.count}", "Correct or remove them."
    )
    if purpose == "training" and orphans == len(annotations):
        first, known = annotations[0]["image_id"], content["images"][0]["id"]
        raise DataError(
            f"{json_file}: none of its {orphans} annotations belongs to one of its images. The "
            f"first annotation has image_id {short_repr(first)}, the first image has id "
            f"{short_repr(known)}; they must be equal, and of the same type."
        )


def _loading_problem(annotation: dict[str, Any], categories: set[Any]) -> str | None:
    """What makes Detectron2's ``load_coco_json`` fail on, or misread, this annotation."""
    if annotation["category_id"] not in categories:
        return (
            f"category_id {short_repr(annotation['category_id'])} is not in the list 'categories'"
        )
    if annotation.get("ignore", 0) != 0:
        return "'ignore' is not supported; use 'iscrowd'"
    if (problem := crowd_problem(annotation)) is not None:
        return problem
    if "bbox" in annotation and not annotation["bbox"]:
        return "'bbox' is empty; it needs [x, y, width, height]"
    if "bbox" in annotation and not isinstance(annotation["bbox"], list):
        return f"'bbox' is {short_repr(annotation['bbox'])}; it needs [x, y, width, height]"
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, dict) and not {"size", "counts"} <= segmentation.keys():
        return rle_problem(segmentation, None, None)
    if segmentation and not isinstance(segmentation, dict | list):
        return f"'segmentation' is a {type(segmentation).__name__}"
    if isinstance(segmentation, list) and not all(isinstance(p, list) for p in segmentation):
        return "'segmentation' must be a list of polygons, each a flat list of numbers"
    return None


def _evaluation_problem(annotation: dict[str, Any], image: dict[str, Any]) -> str | None:
    """What makes pycocotools' evaluation fail on, or misread, this annotation."""
    lacking = [key for key in ("area", "iscrowd", "segmentation") if key not in annotation]
    if lacking:
        return f"lacks {', '.join(lacking)}, needed for evaluation"
    if type(annotation["area"]) not in (int, float) or not 0 <= annotation["area"] < math.inf:
        # Objects of a negative area are of no size class, not even of "all".
        return f"'area' is {short_repr(annotation['area'])}, expected a number from 0"
    if annotation["iscrowd"] is None:
        return "'iscrowd' is None, expected 0 or 1"
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, dict):
        return rle_problem(segmentation, image["height"], image["width"])
    if not segmentation:
        return "'segmentation' is empty"
    problem = next(filter(None, map(outline_problem, segmentation)), None)
    if problem is None and len(segmentation[0]) <= 4:
        # pycocotools takes 4 numbers for a box and fails; short polygons after the first it bears.
        problem = polygon_problem(segmentation[0])
    return problem


def find_annotation_id(content: dict[str, Any], image_id: Any, index: int) -> Any:
    """Id of annotation ``index`` among those that Detectron2 kept of this image; None if unknown.

    Detectron2 drops annotations whose polygons all are invalid, so they are not counted.

    Args:
        content: what :func:`read_coco_json` returned.
    """
    kept = 0
    for annotation in content.get("annotations", []):
        if annotation["image_id"] != image_id:
            continue
        polygons = annotation.get("segmentation")
        if isinstance(polygons, list) and polygons and not any(map(_is_kept, polygons)):
            continue
        if kept == index:
            return annotation.get("id")
        kept += 1
    return None


def _is_kept(polygon: list[float]) -> bool:
    return len(polygon) % 2 == 0 and len(polygon) >= 6
