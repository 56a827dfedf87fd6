"""The user's own data in COCO's format, without code: two annotation files and two folders.

``DATASETS.OWN`` names them. :func:`register_own_data` prepares a training or an evaluation: it
reads the files, agrees on the classes and sets what follows from them in the config, which the run
then saves. :func:`register_own_names` is enough for a saved config; it reads nothing, so that a
model can be used where the data is not.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.data.datasets import load_coco_json

from ..errors import ConfigError, DataError
from ..families import classes_key_of, set_config_value
from .own_files import OwnSplit, check_own_files, own_splits, read_own_file, splits_to_read
from .own_summary import OwnSummary


class OwnMetadata(Metadata):
    """Tells the names registered here from others of the same name."""


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
    to_read = splits_to_read(cfg, splits, for_training=for_training)
    contents = {split: read_own_file(split, for_training=for_training) for split in to_read}
    classes, owner = _agreed_classes(cfg.DATASETS.OWN.CLASSES, contents)
    _set_config(cfg, splits, classes, keep)
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
    if len(set(classes)) < len(classes):
        raise ConfigError(f"DATASETS.OWN.CLASSES has a name twice: {', '.join(classes)}")
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
