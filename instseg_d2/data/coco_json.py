"""Faults in COCO annotations, named by image id and annotation id.

Detectron2 reads COCO files itself and keeps no annotation ids. So that a user still learns which
annotation to mend, the functions here read the raw file a second time: when loading has failed,
when a fault was found in the loaded records, and before an evaluation, which uses that file too.

``segmentation`` means what COCO means by it: a list of polygons ``[x0, y0, x1, y1, ...]``, in
pixels, or a run-length code ``{"size": [height, width], "counts": ...}``.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Hashable, Iterable
from typing import Any, Literal

import numpy as np

from instseg_d2.errors import DataError

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


def rle_pixel_count(counts: str | bytes) -> int:
    """Number of pixels that a compressed run-length code covers, foreground and background.

    In COCO's code a number is written as characters of 5 bits, the lowest first; bit 5 says that
    more follow, bit 4 of the last one is the sign. From the fourth run on a number is the
    difference to the run before the last. (Source: ``rleFrString`` in pycocotools.)

    Raises:
        ValueError: the code is not of this form.
    """
    raw = counts.encode() if isinstance(counts, str) else counts
    digits = np.frombuffer(raw, np.uint8).astype(np.int64) - 48
    if not len(digits):
        return 0
    if digits.min() < 0 or digits.max() > 63 or digits[-1] & 0x20:
        raise ValueError("the run-length code is damaged")
    ends = np.flatnonzero((digits & 0x20) == 0)
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    places = np.arange(len(digits)) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((digits & 0x1F) << (5 * places), starts)
    numbers -= ((digits[ends] & 0x10) >> 4) << (5 * lengths)
    # Undoing the differences and summing the runs is one weighted sum: number i counts once for
    # each run i, i+2, i+4, ... that is built on it. Nothing is built on run 0.
    weights = (len(numbers) - 1 - np.arange(len(numbers))) // 2 + 1
    weights[0] = 1
    return int((numbers * weights).sum())


def polygon_problem(polygon: Any) -> str | None:
    """What is wrong with one polygon, a flat list or an array of coordinates, or None."""
    problem = _numbers_problem(polygon)
    if problem is not None:
        return problem
    size = np.size(polygon) if isinstance(polygon, np.ndarray) else len(polygon)
    if size < 6 or size % 2:
        return f"a polygon has {size} coordinates; it needs an even number, at least 6 (3 points)"
    return None


def _numbers_problem(polygon: Any) -> str | None:
    try:
        total = polygon.sum() if isinstance(polygon, np.ndarray) else sum(polygon)
        # One sum finds every NaN and infinity. They must be found: pycocotools crashes the whole
        # process on them.
        finite = math.isfinite(total)
    except TypeError:
        return "a polygon must be a flat list of numbers [x0, y0, x1, y1, ...]"
    return None if finite else "a polygon has a coordinate that is infinite or not a number"


def rle_problem(rle: dict[str, Any], height: int | None, width: int | None) -> str | None:
    """What is wrong with a run-length code for an image of this size (None: unknown), or None."""
    if "size" not in rle or "counts" not in rle:
        return "the run-length code lacks 'size' or 'counts'"
    size, counts = rle["size"], rle["counts"]
    if height is not None and list(size) != [height, width]:
        return (
            f"the run-length code is for an image of (height, width) = {tuple(size)}, "
            f"but the image is {(height, width)}"
        )
    try:
        covered = sum(counts) if isinstance(counts, list) else rle_pixel_count(counts)
    except (TypeError, ValueError, AttributeError):
        return "the run-length code cannot be read"
    if covered != size[0] * size[1]:
        return f"the run-length code covers {covered} pixels, the image has {size[0] * size[1]}"
    return None


def read_json(path: str) -> Any:
    """The content of a JSON file.

    Raises:
        DataError: it is absent or not JSON.
    """
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"{path} cannot be read as JSON ({error}). It may be damaged or copied only in part: "
            "fetch or write it again."
        ) from error


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
    # Detectron2 admits these files too: the published ones repeat annotation ids.
    unique_ids = "minival" not in json_file
    keys = ("id", "image_id", "category_id")
    _check_entries(annotations, keys, "annotation", json_file, unique_ids=unique_ids)
    _check_annotations(content, json_file, purpose)


def _check_entries(
    entries: list[Any], keys: tuple[str, ...], kind: str, json_file: str, unique_ids: bool = True
) -> None:
    """Every entry is an object with these keys, and no two have the same id."""
    faults = Faults()
    for position, entry in enumerate(entries):
        lacking = [key for key in keys if not isinstance(entry, dict) or key not in entry]
        if lacking:
            known = f" (id {entry['id']})" if isinstance(entry, dict) and "id" in entry else ""
            faults.add(f"{kind} number {position}{known}: lacks {', '.join(lacking)}")
    faults.raise_if_any(
        f"{json_file}: entries of kind '{kind}' that lack keys: {faults.count}",
        "Complete or remove them.",
    )
    repeated = _repeated(entry["id"] for entry in entries) if unique_ids else []
    for value in repeated:
        faults.add(f"{kind} id {value!r} occurs more than once")
    faults.raise_if_any(
        f"{json_file}: ids of kind '{kind}' that are not unique: {faults.count}",
        "Give each its own id.",
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
            faults.add(f"annotation id {annotation['id']} of image id {image['id']}: {problem}")
    faults.raise_if_any(
        f"{json_file}: annotations that cannot be used: {faults.count}", "Correct or remove them."
    )
    if purpose == "training" and orphans == len(annotations):
        raise DataError(
            f"{json_file}: none of its {orphans} annotations belongs to one of its images. The "
            f"first annotation has image_id {annotations[0]['image_id']!r}, the first image has "
            f"id {content['images'][0]['id']!r}; they must be equal, and of the same type."
        )


def _loading_problem(annotation: dict[str, Any], categories: set[Any]) -> str | None:
    """What makes Detectron2's ``load_coco_json`` fail on this annotation."""
    if annotation["category_id"] not in categories:
        return f"category_id {annotation['category_id']!r} is not in the list 'categories'"
    if annotation.get("ignore", 0) != 0:
        return "'ignore' is not supported; use 'iscrowd'"
    if "bbox" in annotation and not annotation["bbox"]:
        return "'bbox' is empty; it needs [x, y, width, height]"
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, dict) and not {"size", "counts"} <= segmentation.keys():
        return rle_problem(segmentation, None, None)
    return None


def _evaluation_problem(annotation: dict[str, Any], image: dict[str, Any]) -> str | None:
    """What makes pycocotools' evaluation fail on, or misread, this annotation."""
    lacking = [key for key in ("area", "iscrowd", "segmentation") if key not in annotation]
    if lacking:
        return f"lacks {', '.join(lacking)}, needed for evaluation"
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, dict):
        return rle_problem(segmentation, image["height"], image["width"])
    if not segmentation:
        return "'segmentation' is empty"
    problem = next(filter(None, map(_numbers_problem, segmentation)), None)
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
