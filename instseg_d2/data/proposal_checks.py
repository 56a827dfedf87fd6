"""Does a file of proposals fit a data set?"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager

from ..errors import DataError, short_repr
from ..remote_files import url_problem
from .coco_json import Faults
from .image_proposals import ImageId, ImageProposals, short_box
from .proposal_files import ProposalFile, read_proposal_file
from .proposal_pickle import FaultHandler, read_boxes_pickle

logger = logging.getLogger(__name__)

Record = dict[str, Any]

FAR = 0.5
"""Boxes reach far beyond an image when it is by more than this part of its side."""

MAX_FAR_SHARE = 0.1
"""Of the boxes of an image. A few may be unclipped anchors, more are a mistake."""


@dataclass
class ProposalReport:
    """What is in a file that fits a data set.

    Attributes:
        images: of the data set that the file has.
        proposals: of these images.
        most: proposals of one image.
        has_masks: whether there are masks.
        absent: ids of images of the data set that a JSON file does not have: they have no
            proposals, or were forgotten.
        empty: images with an entry, but no proposals.
        surplus: ids that are not of the data set.
        flat: boxes without area.
        far: boxes that reach far beyond their images, where they are few.
        is_converted: whether Detectron2 will convert the boxes from XYWH_ABS.
    """

    images: int = 0
    proposals: int = 0
    most: int = 0
    has_masks: bool = False
    absent: list[ImageId] = field(default_factory=list)
    empty: int = 0
    surplus: list[ImageId] = field(default_factory=list)
    flat: int = 0
    far: int = 0
    is_converted: bool = False

    def notes(self) -> list[str]:
        """What may be meant so, but should be known."""
        absent, surplus = len(self.absent), len(self.surplus)
        said = {
            f"images of the data set that do not occur: {absent}, for example image ids "
            f"{some(self.absent)} (a JSON file cannot say that an image has no proposals)": absent,
            f"images without proposals: {self.empty}": self.empty,
            f"image ids that are not of the data set, and are ignored: {surplus}, for example "
            f"{some(self.surplus)}; is the file of another data set?": surplus,
            f"boxes without area, which are ignored: {self.flat}": self.flat,
            f"boxes that reach far beyond their image, and are clipped: {self.far}": self.far,
            "the boxes are (x, y, width, height), by the file's bbox_mode": self.is_converted,
        }
        return [text for text, applies in said.items() if applies]


def check_proposals(path: str | os.PathLike[str], records: Sequence[Record]) -> ProposalReport:
    """Check everything in a file of either format against a data set.

    Args:
        path: of the file.
        records: dicts in Detectron2's data set format. Where they have ``height`` and ``width``,
            sizes are checked.

    Raises:
        DataError: the file cannot be used with the data set. The message names the file, image ids
            and what to do.
    """
    file = read_proposal_file(path)
    report = ProposalReport()
    known = {str(record["image_id"]): record for record in records}
    faults = Faults()
    seen: set[str] = set()
    for proposals in _images(file, report, faults.add):
        key = str(proposals.image_id)  # Detectron2 compares them so
        if key in seen:
            faults.add(f"image id {short_repr(proposals.image_id)} occurs more than once")
        elif key not in known:
            report.surplus.append(proposals.image_id)
        elif problem := _misfit(proposals, known[key], report):
            faults.add(f"image id {short_repr(proposals.image_id)}: {problem}")
        else:
            _count(proposals, report)
        seen.add(key)
    faults.raise_if_any(
        f"{file.path}: images whose proposals cannot be used: {faults.count}",
        "Make the file anew, or give the one that was made for this data set.",
    )
    missing = [record["image_id"] for record in records if str(record["image_id"]) not in seen]
    _check_coverage(file, report, missing)
    return report


def _images(file: ProposalFile, report: ProposalReport, on_fault: FaultHandler) -> Any:
    if file.is_json:
        return file.images(on_fault)
    content = read_boxes_pickle(file.path)
    report.is_converted = content.bbox_mode != BoxMode.XYXY_ABS
    return content.images(on_fault)


def _misfit(proposals: ImageProposals, record: Record, report: ProposalReport) -> str | None:
    """Why the proposals cannot be of this image, or None; counts boxes that are doubtful."""
    size = record.get("height"), record.get("width")
    if not len(proposals) or None in size:
        return None
    height, width = size
    if proposals.rles is not None and list(proposals.rles[0]["size"]) != [height, width]:
        return (
            f"its masks are for an image of (height, width) = {tuple(proposals.rles[0]['size'])}, "
            f"but it is {size}"
        )
    sides = np.array([width, height, width, height])
    is_far = ((proposals.boxes < -FAR * sides) | (proposals.boxes > (1 + FAR) * sides)).any(1)
    far = int(is_far.sum())
    if far > MAX_FAR_SHARE * len(proposals):
        return (
            f"{far} of its {len(proposals)} boxes reach far beyond the image of {width} x {height} "
            f"pixels (width x height), for example {short_box(proposals.boxes[is_far.argmax()])}: "
            "the proposals are of another image or another size of it, or the boxes are XYXY and "
            "are declared as XYWH"
        )
    report.far += far
    return None


def _count(proposals: ImageProposals, report: ProposalReport) -> None:
    report.images += 1
    report.proposals += len(proposals)
    report.most = max(report.most, len(proposals))
    report.empty += len(proposals) == 0
    report.has_masks |= proposals.rles is not None
    report.flat += int((proposals.boxes[:, 2:] <= proposals.boxes[:, :2]).any(1).sum())


def _check_coverage(file: ProposalFile, report: ProposalReport, missing: list[ImageId]) -> None:
    """Raise ``DataError`` if images lack, or there is nothing."""
    if report.surplus and not report.images:
        raise DataError(
            f"{file.path} is of another data set: none of its {len(report.surplus)} image ids "
            f"({some(report.surplus)}) is one of the {len(missing)} of this one ({some(missing)})."
        )
    if not report.proposals:
        raise DataError(f"{file.path} has no proposals for any image of the data set.")
    if file.is_json:
        report.absent = missing
    elif missing:
        advice = (
            f"It has {len(report.surplus)} ids of other images, so it may be of another data set."
            if report.surplus
            else "Make the proposals of all images, for example with tools/make_proposals.py."
        )
        raise DataError(
            f"{file.path} has no entry for {len(missing)} of the {len(missing) + report.images} "
            f"images of the data set, for example image ids {some(missing)}. {advice}"
        )


def some(ids: Sequence[ImageId]) -> str:
    """The first few, for a message."""
    return ", ".join(map(short_repr, ids[:3])) + (", ..." if len(ids) > 3 else "")


def check_precomputed_proposals(dataset_name: str, records: Sequence[Record], path: str) -> None:
    """Check one of ``DATASETS.PROPOSAL_FILES_TRAIN`` or ``_TEST`` before Detectron2 loads it.

    It is read once (some 3 seconds for 10,000 images of 1000 boxes); what is odd but usable
    is logged as a warning.

    Args:
        dataset_name, records: the data set that the file is for.
        path: as Detectron2 takes it; a remote file is fetched.

    Raises:
        DataError: the training or evaluation would fail, or not mean what the user thinks.
    """
    label = f"data set '{dataset_name}': its proposal file"
    if (problem := url_problem(path)) is not None:
        raise DataError(f"{label} {problem}")
    try:
        local = PathManager.get_local_path(path)
    except Exception as error:  # of whatever fetches it
        raise DataError(f"{label} {path} cannot be fetched: {error}") from error
    if not os.path.isfile(local):
        raise DataError(
            f"{label} {path} does not exist. DATASETS.PROPOSAL_FILES_TRAIN and "
            "DATASETS.PROPOSAL_FILES_TEST name one for each data set; tools/make_proposals.py "
            "makes them."
        )
    try:
        if read_proposal_file(local).is_json:
            raise DataError(
                f"{path} is a JSON file of masks; boxes in a pickle are wanted. Convert it: "
                f"tools/proposal_files.py convert {path} {os.path.splitext(path)[0]}.pkl"
            )
        report = check_proposals(local, records)
    except DataError as error:
        raise DataError(f"{label} cannot be used. {error}") from error
    for note in report.notes():
        logger.warning("%s %s: %s", label, path, note)
