"""The user's own data in COCO's format, without code: two annotation files and two folders.

``DATASETS.OWN`` names them. :func:`register_own_data` prepares a training or an evaluation: it
reads the files, agrees on the classes and sets what follows from them in the config, which the run
then saves. :func:`register_own_names` is enough for a saved config; it reads nothing, so that a
model can be used where the data is not.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.data.datasets import load_coco_json

from ..errors import ConfigError, DataError
from ..families import classes_key_of, set_config_value
from .coco_json import Faults, Purpose, check_coco_content, read_coco_json
from .own_summary import OwnSummary

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


class OwnMetadata(Metadata):
    """Tells the names registered here from others of the same name."""


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
    """See that what :func:`register_own_data` needs is named and there, before anything is read.

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
    for split in _splits_to_read(cfg, splits, for_training):
        if not os.path.isfile(split.json_file):
            is_folder = os.path.isdir(split.json_file)
            raise DataError(
                f"{split.option('JSON')}: {split.json_file} "
                + ("is a folder; the annotation file in it is wanted" if is_folder else "is absent")
            )
        if not os.path.isdir(split.image_root):
            raise DataError(
                f"{split.option('IMAGES')}: the folder {split.image_root} does not exist"
            )


def _splits_to_read(
    cfg: CfgNode, splits: Mapping[str, OwnSplit], for_training: bool
) -> list[OwnSplit]:
    """Only the validation data for an evaluation, unless the classes are still open: they have the
    order of the training data."""
    needs_train = for_training or not cfg.DATASETS.OWN.CLASSES
    return [split for name, split in splits.items() if name == "val" or needs_train]


def register_own_data(
    cfg: CfgNode, *, for_training: bool = True, keep: Collection[str] = ()
) -> OwnSummary | None:
    """Read the data that ``DATASETS.OWN`` names, register it, and set the config up for it.

    Set, in place, are ``DATASETS.TRAIN`` and ``DATASETS.TEST``, the number of classes, and in
    ``DATASETS.OWN`` the classes and absolute paths. Without validation data ``DATASETS.TEST`` is
    empty, and nothing is evaluated.

    Args:
        cfg: not frozen; of any family.
        for_training: False: for an evaluation, which needs no training data.
        keep: keys that stay as they are, because the user has set them.

    Returns:
        what the data holds, for the log; None if there is no own data.

    Raises:
        ConfigError: see :func:`check_own_files`; or ``DATASETS.OWN.CLASSES`` are not those of the
            data.
        DataError: a file or folder is absent or cannot be used, none of the images is in the
            folder, or the categories of training and validation data have different names.
    """
    splits = own_splits(cfg)
    if not splits:
        return None
    check_own_files(cfg, for_training=for_training, keep=keep)
    to_read = _splits_to_read(cfg, splits, for_training)
    contents = {split: _read(split, for_training) for split in to_read}
    classes, owner = _agreed_classes(cfg.DATASETS.OWN.CLASSES, contents)
    _set_config(cfg, splits, classes, for_training, keep)
    register_own_names(cfg)
    return OwnSummary.of(
        {split.name: content for split, content in contents.items()},
        {split.name: split.image_root for split in contents},
        classes,
        owner,
    )


def _set_config(
    cfg: CfgNode,
    splits: Mapping[str, OwnSplit],
    classes: Sequence[str],
    for_training: bool,
    keep: Collection[str],
) -> None:
    node = cfg.DATASETS.OWN
    node.CLASSES = tuple(classes)
    for split in splits.values():
        node[f"{split.split.upper()}_JSON"] = split.json_file
        node[f"{split.split.upper()}_IMAGES"] = split.image_root
    values: dict[str, Any] = {
        "DATASETS.TEST": (splits["val"].name,) if "val" in splits else (),
    }
    if "train" in splits:
        values["DATASETS.TRAIN"] = (splits["train"].name,)
    classes_key = classes_key_of(cfg)
    if classes_key is not None and classes:
        values[classes_key] = len(classes)
    for key, value in values.items():
        if key not in keep:
            set_config_value(cfg, key, value)


def _read(split: OwnSplit, for_training: bool) -> dict[str, Any]:
    """The content of an annotation file, looked at as far as this module relies on it."""
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
    else:
        advice = "The file names in the annotation file are relative to that folder."
    raise DataError(
        f"{split.option('IMAGES')}: none of the images of {split.json_file} is in the folder "
        f"{root}; {len(tried)} were looked for, the first is {first}. {advice}"
    )


def _class_names(categories: list[dict[str, Any]]) -> list[str]:
    """By rising category id, as Detectron2 numbers them."""
    ordered = sorted(categories, key=lambda category: category["id"])
    return [str(category["name"]) for category in ordered]


def _agreed_classes(
    wanted: Sequence[str], contents: Mapping[OwnSplit, Any]
) -> tuple[list[str], str]:
    """``wanted``, or the classes of the first file, and where they are from; those of all files are
    the same.

    Raises:
        ConfigError, DataError: they are not.
    """
    classes, owner = list(wanted), "DATASETS.OWN.CLASSES"
    for split, content in contents.items():
        names = _class_names(content["categories"])
        classes, owner = (classes, owner) if classes else (names, split.json_file)
        difference = _difference(names, split.json_file, classes, owner)
        if difference and wanted:
            raise ConfigError(
                f"{difference} DATASETS.OWN.CLASSES is of the run whose config this is; "
                'DATASETS.OWN.CLASSES "()" takes the classes from the data.'
            )
        if difference:
            raise DataError(
                f"{difference} Training and validation data need categories of the same names, "
                "letter by letter; the ids may differ."
            )
    return classes, owner


def _difference(names: Sequence[str], file: str, classes: Sequence[str], owner: str) -> str:
    """How the categories of a file differ from the classes, as a set; "" if they do not."""
    parts = [
        f"only in {where}: {', '.join(map(repr, only))}"
        for where, only in (
            (file, [name for name in names if name not in classes]),
            (owner, [name for name in classes if name not in names]),
        )
        if only
    ]
    return f"the categories differ; {'; '.join(parts)}." if parts else ""


def register_own_names(cfg: CfgNode) -> None:
    """Register ``own_train`` and ``own_val``, as far as ``DATASETS.OWN`` names them.

    Files are read only when the data is asked for. A second call replaces the first.

    Raises:
        ConfigError: see :func:`own_splits`; or the name belongs to another data set.
    """
    classes = list(cfg.DATASETS.OWN.CLASSES)
    for split in own_splits(cfg).values():
        name = split.name
        known = MetadataCatalog.get(name) if name in MetadataCatalog.list() else None
        if name in DatasetCatalog.list() and not isinstance(known, OwnMetadata):
            raise ConfigError(
                f"A data set named {name!r} is registered already, and DATASETS.OWN names another. "
                "Register yours under another name."
            )
        metadata = OwnMetadata(
            name=name,
            json_file=split.json_file,
            image_root=split.image_root,
            evaluator_type="coco",
        )
        if classes:
            metadata.thing_classes = classes
        MetadataCatalog[name] = metadata
        DatasetCatalog.pop(name, None)
        DatasetCatalog.register(name, partial(_load, metadata))


def _load(metadata: OwnMetadata) -> list[dict[str, Any]]:
    """Detectron2's records, their categories numbered as the metadata has the classes."""
    # Where "coco" is part of the name Detectron2 does not warn of ids with gaps.
    scratch = f"{metadata.name}, read as coco"
    try:
        records: list[dict[str, Any]] = load_coco_json(
            metadata.json_file, metadata.image_root, scratch
        )
        found = MetadataCatalog.get(scratch)
        names = [str(name) for name in found.thing_classes]
        ids = list(found.thing_dataset_id_to_contiguous_id)
    finally:
        MetadataCatalog.pop(scratch, None)
    classes = metadata.get("thing_classes") or names
    difference = _difference(names, metadata.json_file, classes, "DATASETS.OWN.CLASSES")
    if difference:
        raise DataError(f"data set {metadata.name!r}: {difference}")
    numbers = [classes.index(name) for name in names]
    metadata.thing_classes = classes
    metadata.thing_dataset_id_to_contiguous_id = dict(zip(ids, numbers, strict=True))
    for record in records:
        for annotation in record["annotations"]:
            annotation["category_id"] = numbers[annotation["category_id"]]
    return records
