"""Bad data gets one clear error before the first iteration.

:func:`load_checked_dataset` loads a registered data set and checks everything that would stop a
training or an evaluation later: names, files, class counts, category ids, segmentations.

On training data without faults the checks make one pass over the loaded records; only when a fault
was found is the annotation file read again, to name the annotation.
"""

from __future__ import annotations

import difflib
import logging
import os

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog

from instseg_d2.data.annotation_checks import Masks, Record, check_annotations
from instseg_d2.data.coco_json import Faults, check_coco_json, coco_file_of
from instseg_d2.errors import DataError, UserError

logger = logging.getLogger(__name__)

MAX_FILES_CHECKED = 5000
"""Looking for more files than this takes long on a network drive; larger sets are sampled."""

_BUILTIN_PREFIXES = ("coco_", "keypoints_coco_", "lvis_", "cityscapes_", "voc_", "ade20k_")


def load_checked_dataset(
    name: str,
    *,
    num_classes: int | None,
    classes_key: str,
    max_instances: int | None,
    for_training: bool,
    masks: Masks = "all",
    coco_evaluation: bool = True,
) -> list[Record]:
    """Load a registered data set and check it.

    Args:
        name: a name in Detectron2's ``DatasetCatalog``.
        num_classes: classes that the model tells apart; None for a class-agnostic model, whose data
            may have any number of classes; its category ids must be below that number, if the data
            set states its classes.
        classes_key: the config key that sets ``num_classes``, for the error messages.
        max_instances: the most instances that the model can find in an image, None if there is no
            limit. Images with more are counted in a logged warning.
        for_training: whether annotations are needed.
        masks: which objects need a ``segmentation``. Where "some" do, the others are counted in a
            logged warning; for "none" segmentations are not looked at.
        coco_evaluation: unless ``for_training``, whether data in COCO format is for an evaluation
            with COCO's metrics. The annotation file itself is then checked too, because the
            evaluation reads it again.

    Returns:
        The records as ``DatasetCatalog.get`` gives them.

    Raises:
        DataError: the data set cannot be used. The message names data set, file, image, annotation
            and config key as far as they apply, and what to do.
    """
    records = load_registered(name)
    check_class_count(name, num_classes, classes_key)
    check_image_files(name, records)
    classes = MetadataCatalog.get(name).get("thing_classes")
    check_annotations(
        name,
        records,
        num_classes=num_classes or len(classes or ()) or None,
        for_training=for_training,
        masks=masks,
    )
    json_file = coco_file_of(name)
    if json_file is not None and not for_training and coco_evaluation:
        check_coco_json(json_file, "evaluation")
    if max_instances is not None:
        warn_of_full_images(name, records, max_instances)
    return records


def load_registered(name: str) -> list[Record]:
    """The records of a registered data set, at least one; nothing else of them is checked.

    Raises:
        DataError: it is not registered, cannot be loaded, or is empty.
    """
    if name not in DatasetCatalog:
        raise DataError(_unknown_name_message(name))
    try:
        records = DatasetCatalog.get(name)
    except UserError:
        raise
    except Exception as error:  # whoever registered the data wrote that function
        raise _explain_failed_load(name, error) from error
    if not isinstance(records, list):
        raise DataError(
            f"data set '{name}': the registered function returned a {type(records).__name__}, "
            "expected a list with one dict for each image."
        )
    if not records:
        json_file = coco_file_of(name)
        if json_file is not None:
            check_coco_json(json_file, "training")
        raise DataError(f"data set '{name}' has no images.{_builtin_hint(name)}")
    _make_sides_whole(records)
    return records


def _make_sides_whole(records: list[Record]) -> None:
    """Some programs write 640.0, which is no shape of an array."""
    for record in records:
        for side in ("height", "width"):
            value = record.get(side)
            if isinstance(value, float) and value.is_integer():
                record[side] = int(value)


def _unknown_name_message(name: str) -> str:
    similar = difflib.get_close_matches(name, DatasetCatalog.list(), n=3, cutoff=0.6)
    meant = f" Did you mean {' or '.join(repr(other) for other in similar)}?" if similar else ""
    return (
        f"data set '{name}' is not registered.{meant} Data in COCO format is registered "
        f"with detectron2.data.datasets.register_coco_instances('{name}', {{}}, "
        "'annotations.json', 'image_folder')"
        f"{_builtin_hint(name)}"
    )


def _explain_failed_load(name: str, error: Exception) -> DataError:
    """The reason why the registered function failed, found by looking at the annotation file."""
    path = MetadataCatalog.get(name).get("json_file")
    if path and "://" not in path and not os.path.isfile(path):
        return DataError(
            f"data set '{name}': the annotation file {path} does not exist.{_builtin_hint(name)}"
        )
    json_file = coco_file_of(name)
    if json_file is not None:
        try:
            check_coco_json(json_file, "loading")
        except DataError as reason:
            return DataError(f"data set '{name}': {reason}")
    if isinstance(error, ModuleNotFoundError):
        return DataError(
            f"data set '{name}' is read with the package {error.name}, which is not installed: "
            f"pip install {error.name}"
        )
    message = f"data set '{name}' could not be loaded: {type(error).__name__}: {error}"
    if isinstance(error, AssertionError) and "thing_classes" in str(error):
        message += (
            "\nIts annotation file has other categories than the built-in data set of this name: "
            "register your data under a name of its own."
        )
    return DataError(message + _builtin_hint(name))


def _builtin_hint(name: str) -> str:
    """Where Detectron2 looks for the data sets that it knows; empty for other names."""
    if not name.startswith(_BUILTIN_PREFIXES):
        return ""
    root = os.environ.get("DETECTRON2_DATASETS")
    value = f"'{root}'" if root is not None else f"not set, so '{os.path.abspath('datasets')}'"
    hint = (
        "\nBuilt-in data sets are looked for in the folder that the environment variable "
        f"DETECTRON2_DATASETS names (now {value})."
    )
    if name.startswith("coco_20"):
        year = name[len("coco_") :][:4]
        hint += (
            f" It should contain coco/annotations/instances_{{train,val}}{year}.json and "
            f"coco/{{train,val}}{year}/*.jpg"
        )
    return hint


def check_class_count(name: str, num_classes: int | None, classes_key: str) -> None:
    """Raise :class:`DataError` if the (loaded) data set has another class count than the model."""
    classes = MetadataCatalog.get(name).get("thing_classes")
    if classes is None or num_classes is None or len(classes) == num_classes:
        return
    some = ", ".join(map(str, classes[:5])) + (", ..." if len(classes) > 5 else "")
    raise DataError(
        f"data set '{name}' has {len(classes)} classes ({some}), but the model is configured for "
        f"{num_classes}: set {classes_key} {len(classes)} in the config file or at the end of the "
        "command line."
    )


def check_image_files(name: str, records: list[Record]) -> None:
    """Raise :class:`DataError` if image files are missing.

    Up to 5000 files are all looked for, from larger sets 5000 evenly spread ones. Records without
    ``file_name`` and remote files are passed over.
    """
    paths = [record["file_name"] for record in records if "file_name" in record]
    picked = paths
    if len(paths) > MAX_FILES_CHECKED:
        spread = np.linspace(0, len(paths) - 1, MAX_FILES_CHECKED).round().astype(int)
        picked = [paths[index] for index in spread]
    faults = Faults()
    for path in picked:
        if "://" not in str(path) and not os.path.isfile(path):
            faults.add(str(path))
    looked_at = f"{len(picked)} images"
    if len(picked) < len(paths):
        looked_at = f"{len(picked)} images looked at (of {len(paths)})"
    image_root = MetadataCatalog.get(name).get("image_root")
    where = (
        f" The file names are relative to the image folder '{image_root}'." if image_root else ""
    )
    faults.raise_if_any(
        f"data set '{name}': {faults.count} of the {looked_at} are missing, for example:",
        f"Put the images there or correct the paths.{where}{_builtin_hint(name)}",
    )


def warn_of_full_images(name: str, records: list[Record], max_instances: int) -> None:
    """Log one warning if images have more instances (crowds aside) than the model can find."""
    counts = [
        sum(not annotation.get("iscrowd", 0) for annotation in record.get("annotations", ()))
        for record in records
    ]
    full = sum(count > max_instances for count in counts)
    if full:
        worst = int(np.argmax(counts))
        logger.warning(
            "data set '%s': %d images have more instances than the %d that the model can find in "
            "an image; the rest are missed. Worst: image id %s with %d.",
            name,
            full,
            max_instances,
            records[worst].get("image_id"),
            counts[worst],
        )
