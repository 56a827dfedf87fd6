"""Results in COCO's format, checked against the data set before anything is computed of them."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pycocotools.mask as mask_util

from ..data.coco_json import read_json
from ..data.rle_batch import rles_problem
from ..errors import DataError
from ..rle_masks import segmentation_rle
from .truth import Truth

Entry = dict[str, Any]

MOST_PER_IMAGE = 100
"""Evaluations count no more detections of an image and class; proposals are more."""

PROPOSALS_ADVICE = (
    "They look like class-agnostic proposals, which have a recall but no AP by class: use "
    "tools/evaluate_proposals.py --proposals {path}"
)


@dataclass(frozen=True)
class Results:
    """Detections of the data set's categories, each with ``bbox`` and, if ``has_masks``, a
    compressed ``segmentation``.

    Attributes:
        remarks: what the reader of the report has to know of the file.
    """

    path: str
    entries: list[Entry]
    has_masks: bool
    remarks: list[str] = field(default_factory=list)

    def by_image(self) -> dict[Any, list[Entry]]:
        """Image id -> its detections, in the order of the file."""
        groups: dict[Any, list[Entry]] = {}
        for entry in self.entries:
            groups.setdefault(entry["image_id"], []).append(entry)
        return groups


def read_results(path: str, truth: Truth) -> Results:
    """The results of a file on a data set.

    Raises:
        DataError: no such file, damaged, of another kind, of another data set, or proposals
            without classes.
    """
    entries = _read(path)
    _check_keys(path, entries)
    _check_images(path, entries, truth)
    _check_not_proposals(path, entries, truth)
    known = [entry for entry in entries if entry["category_id"] in truth.names]
    remarks = _remarks(entries, known, truth)
    if entries and not known:
        raise DataError(
            f"{path}: none of its category ids ({_some(e['category_id'] for e in entries)}) is in "
            f"{truth.name}, which has {_some(truth.names)}; results and annotations must be of the "
            "same data set"
        )
    has_masks = bool(known) and all("segmentation" in entry for entry in known)
    if not has_masks and any("segmentation" in entry for entry in known):
        raise DataError(f"{path}: some results have a segmentation and others have none")
    if has_masks:
        _compress(path, known, truth)
    for entry in known:
        if "bbox" not in entry:
            entry["bbox"] = mask_util.toBbox(entry["segmentation"]).tolist()
    return Results(path, known, has_masks, remarks)


def _read(path: str) -> list[Entry]:
    if path.endswith((".pkl", ".pickle")):
        raise DataError(f"{path} is no JSON file. " + PROPOSALS_ADVICE.format(path=path))
    if not os.path.isfile(path):
        raise DataError(
            f"{path} does not exist. An evaluation (train_net.py --eval-only) writes "
            "coco_instances_results.json into OUTPUT_DIR/inference."
        )
    entries = read_json(path)
    if not isinstance(entries, list):
        raise DataError(
            f"{path} is no file of results: its top level is a {type(entries).__name__}, expected "
            "a list with one object for each detection, as evaluations write it into "
            "coco_instances_results.json"
        )
    return entries


def _check_keys(path: str, entries: list[Entry]) -> None:
    if entries and not any(isinstance(e, dict) and "category_id" in e for e in entries):
        raise DataError(
            f"{path}: its entries have no category_id. " + PROPOSALS_ADVICE.format(path=path)
        )
    for number, entry in enumerate(entries):
        problem = _entry_problem(entry)
        if problem is not None:
            place = ""
            if isinstance(entry, dict) and "image_id" in entry:
                place = f" (image id {entry['image_id']!r})"
            raise DataError(f"{path}: result number {number}{place} {problem}")


def _entry_problem(entry: Any) -> str | None:
    if not isinstance(entry, dict):
        return f"is a {type(entry).__name__}, expected an object"
    lacking = [key for key in ("image_id", "category_id", "score") if key not in entry]
    if lacking:
        return f"lacks {', '.join(lacking)}"
    if any(isinstance(entry[key], (list, dict)) for key in ("image_id", "category_id")):
        return "has an id that is neither a number nor a text"
    if not _is_number(entry["score"]):
        return f"has the score {entry['score']!r}, which is no finite number"
    box = entry.get("bbox")
    if box is None:
        return None if entry.get("segmentation") else "has neither bbox nor segmentation"
    if not (isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))):
        return f"has the bbox {box!r}, expected [x, y, width, height]"
    return None


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, (int, float)) and math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
        return False


def _check_images(path: str, entries: list[Entry], truth: Truth) -> None:
    unknown = {entry["image_id"] for entry in entries} - truth.images.keys()
    if unknown:
        raise DataError(
            f"{path}: results name {len(unknown)} image ids that {truth.name} does not have, such "
            f"as {min(unknown, key=str)!r}; results and annotations must be of the same data set"
        )


def _check_not_proposals(path: str, entries: list[Entry], truth: Truth) -> None:
    """Class-agnostic proposals all have one category, and are many."""
    if len({entry["category_id"] for entry in entries}) != 1 or len(truth.names) < 2:
        return
    most = max(Counter(entry["image_id"] for entry in entries).values())
    if most > MOST_PER_IMAGE:
        raise DataError(
            f"{path}: all results have the category id {entries[0]['category_id']!r}, though "
            f"{truth.name} has {len(truth.names)} categories, and an image has up to {most}. "
            + PROPOSALS_ADVICE.format(path=path)
        )


def _compress(path: str, entries: list[Entry], truth: Truth) -> None:
    """Make every segmentation a compressed code of the image's size, in place."""
    groups: dict[Any, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry["image_id"], []).append(entry)
    for image_id, group in groups.items():
        image = truth.images[image_id]
        size = [image["height"], image["width"]]
        for entry in group:
            segmentation = entry["segmentation"]
            if isinstance(segmentation, dict) and isinstance(segmentation.get("counts"), str):
                continue
            try:
                rle = segmentation_rle(segmentation, *size)
                entry["segmentation"] = {"size": size, "counts": rle["counts"].decode()}
            except Exception as error:  # pycocotools raises many types
                raise DataError(
                    f"{path}: a segmentation of image id {image_id!r} can be read neither as "
                    f"polygons nor as a run-length code ({type(error).__name__}: {error})"
                ) from error
        problem = rles_problem([entry["segmentation"] for entry in group], size)
        if problem is not None:
            raise DataError(
                f"{path}: image id {image_id!r}, {problem}. The file is damaged, or results and "
                "annotations are not of the same data set."
            )


def _remarks(entries: list[Entry], known: list[Entry], truth: Truth) -> list[str]:
    remarks = []
    if not entries:
        return ["The results are empty: the model found nothing at all."]
    if len(known) < len(entries):
        others = {e["category_id"] for e in entries if e["category_id"] not in truth.names}
        remarks.append(
            f"{len(entries) - len(known)} results have a category id that the data set does not "
            f"have ({_some(others)}); they are left out, as evaluations do."
        )
    repeated = len(known) - len({_identity(entry) for entry in known})
    if repeated:
        remarks.append(
            f"{repeated} results occur more than once, with the same image, class, score and "
            "place. Only one of each can count as true; was the file put together from parts?"
        )
    if not all(0 <= entry["score"] <= 1 for entry in known):
        remarks.append(
            "Some scores are not from 0 to 1, so they are no probabilities: what is said of their "
            "calibration means nothing."
        )
    classes = {entry["category_id"] for entry in known}
    if len(classes) == 1 and len(truth.names) > 1:
        remarks.append(
            f"All results are of one class, {truth.names[classes.pop()]}. If they are "
            "class-agnostic proposals, tools/evaluate_proposals.py says more about them."
        )
    return remarks


def _identity(entry: Entry) -> tuple[Any, ...]:
    place = entry.get("segmentation") or entry.get("bbox")
    return entry["image_id"], entry["category_id"], entry["score"], json.dumps(place)


def _some(values: Any) -> str:
    listed = sorted(set(values), key=str)
    return ", ".join(map(repr, listed[:5])) + (", ..." if len(listed) > 5 else "")
