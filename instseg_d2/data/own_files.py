"""The files of the user's own data: which are named, whether they are there, what is in them."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from detectron2.config import CfgNode

from ..errors import ConfigError, DataError
from .coco_json import Faults, Purpose, check_coco_content, read_coco_json

FILES_TRIED = 50
"""So many image files are looked for to see whether the folder is the right one."""


@dataclass(frozen=True)
class OwnSplit:
    """Where the training or the validation data lies.

    Attributes:
        split: "train" or "val".
        json_file: annotations, an absolute path.
        image_root: folder of the images, an absolute path.
    """

    split: str
    json_file: str
    image_root: str

    @property
    def name(self) -> str:
        """In Detectron2's catalogue."""
        return f"own_{self.split}"

    def option(self, what: str) -> str:
        """How the user gives "JSON" or "IMAGES"."""
        return f"--{self.split}-{what.lower()} (DATASETS.OWN.{self.split.upper()}_{what})"


def own_splits(cfg: CfgNode) -> dict[str, OwnSplit]:
    """What ``DATASETS.OWN`` names: "train", "val", both or neither. Nothing is looked for.

    Raises:
        ConfigError: annotations without a folder of images, or the other way round.
    """
    splits = {}
    for split in ("train", "val"):
        paths = [
            getattr(cfg.DATASETS.OWN, f"{split.upper()}_{what}") for what in ("JSON", "IMAGES")
        ]
        if not any(paths):
            continue
        found = OwnSplit(split, *(os.path.abspath(os.path.expanduser(path)) for path in paths))
        if not all(paths):
            given, other = ("JSON", "IMAGES") if paths[0] else ("IMAGES", "JSON")
            raise ConfigError(
                f"{found.option(given)} is given without {found.option(other)}: an annotation file "
                "and the folder of its images go together"
            )
        splits[split] = found
    return splits


def check_own_files(cfg: CfgNode, *, for_training: bool, keep: Collection[str] = ()) -> None:
    """See that the files :func:`.own.register_own_data` needs are named and there; read nothing.

    Raises:
        ConfigError: see :func:`own_splits`; or the data to train on or to evaluate on is lacking.
        DataError: a file or folder does not exist.
    """
    splits = own_splits(cfg)
    if not splits:
        return
    needed, key = ("train", "DATASETS.TRAIN") if for_training else ("val", "DATASETS.TEST")
    if needed not in splits and key not in keep:
        other = next(iter(splits.values()))
        raise ConfigError(
            f"{other.option('JSON')} is given, but no data to "
            f"{'train' if for_training else 'evaluate'} on: add --{needed}-json and "
            f"--{needed}-images" + (", or --eval-only" if for_training else "")
        )
    for split in splits_to_read(cfg, splits, for_training=for_training):
        if not os.path.isfile(split.json_file):
            is_folder = os.path.isdir(split.json_file)
            raise DataError(
                f"{split.option('JSON')}: {split.json_file} "
                + ("is a folder; name the file in it" if is_folder else "is absent; check the path")
            )
        if not os.path.isdir(split.image_root):
            raise DataError(
                f"{split.option('IMAGES')}: the folder {split.image_root} does not exist"
            )


def splits_to_read(
    cfg: CfgNode, splits: Mapping[str, OwnSplit], *, for_training: bool
) -> list[OwnSplit]:
    """Only the validation data for an evaluation, unless the classes are still open: they have the
    order of the training data."""
    needs_train = for_training or not cfg.DATASETS.OWN.CLASSES
    return [split for name, split in splits.items() if name == "val" or needs_train]


def read_own_file(split: OwnSplit, *, for_training: bool) -> dict[str, Any]:
    """The content of an annotation file that can be loaded and, if it is the training data and
    ``for_training``, learnt from; its categories have whole numbers and names of their own, and the
    folder has images of it.

    Raises:
        DataError: it is not so.
    """
    content = read_coco_json(split.json_file)
    learns = for_training and split.split == "train"
    purpose: Purpose = "training" if learns else "loading"
    check_coco_content(content, split.json_file, purpose)
    faults = Faults()
    for image in content["images"]:
        if not isinstance(image["file_name"], str):
            faults.add(f"image id {image['id']}: file_name is {image['file_name']!r}, not text")
        for side in ("width", "height"):
            if not isinstance(image[side], (int, float)):
                faults.add(f"image id {image['id']}: {side} is {image[side]!r}, not a number")
    faults.raise_if_any(f"{split.json_file}: faulty images: {{count}}", "Correct them.")
    _check_categories(content["categories"], split.json_file)
    _check_folder(split, [image["file_name"] for image in content["images"]])
    return content


def _check_categories(categories: list[dict[str, Any]], json_file: str) -> None:
    faults = Faults()
    seen: dict[str, Any] = {}
    for category in categories:
        number, name = category["id"], str(category["name"])
        if type(number) is not int:
            faults.add(f"category {name!r}: its id is {number!r}, not a whole number")
        if name in seen:
            faults.add(f"category ids {seen[name]} and {number} have the same name, {name!r}")
        seen[name] = number
    faults.raise_if_any(
        f"{json_file}: categories that cannot be told apart: {{count}}",
        "Classes go by their names: give each category a whole number and a name of its own.",
    )


def _check_folder(split: OwnSplit, names: list[str]) -> None:
    """See that the folder has images of the file; single missing ones are named when the data set
    is loaded."""
    tried = names[:: max(1, len(names) // FILES_TRIED)]
    root, first = split.image_root, names[0]
    if any(os.path.isfile(os.path.join(root, name)) for name in tried):
        return
    entries = sorted(os.scandir(root), key=lambda entry: entry.name)
    others = [os.path.dirname(root), *(entry.path for entry in entries if entry.is_dir())]
    elsewhere = [path for path in others if os.path.isfile(os.path.join(path, first))]
    if elsewhere:
        advice = f"It is in {elsewhere[0]}: give that folder."
    elif os.path.isfile(os.path.join(root, os.path.basename(first))):
        advice = f"{os.path.basename(first)} is there: its file_name must go without the folders."
    elif "\\" in first:
        advice = "Folders in a file_name are set apart by / here, not by \\."
    else:
        advice = "The file names in the annotation file are relative to that folder."
    raise DataError(
        f"{split.option('IMAGES')}: none of the images of {split.json_file} is in the folder "
        f"{root}; {len(tried)} were looked for, the first is {first}. {advice}"
    )
