"""Detections as two JSON files: results, and what they are results of."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from detectron2.data.catalog import Metadata
from detectron2.structures import Instances

from ..atomic_file import written_whole
from ..json_list import JsonList
from .detections import Size, enlarged, to_coco_results

RESULTS_FILE = "predictions.json"
IMAGES_FILE = "images.json"

Entry = dict[str, Any]
"""Of one image: ``height``, ``width``, and ``results`` in COCO's format without the image's id."""


def classes_of(metadata: Metadata | None) -> tuple[Sequence[str], list[int] | None]:
    """The classes' names, and their ids in COCO's format by class, as far as they are known."""
    get = (lambda key: None) if metadata is None else metadata.get
    ids = get("thing_dataset_id_to_contiguous_id")
    by_class = None if ids is None else sorted(ids, key=ids.__getitem__)
    return get("thing_classes") or (), by_class


def entry_of(found: Instances, full_size: Size, category_ids: Sequence[int] | None) -> Entry:
    """
    Args:
        found: the detections of an image, which may be a reduced one.
        full_size: of the image.
        category_ids: by class; None: the classes are the ids.
    """
    results = to_coco_results(enlarged(found, full_size), 0, category_ids)
    for result in results:
        del result["image_id"]
    return {"height": full_size[0], "width": full_size[1], "results": results}


def write_result_files(
    folder: Path,
    class_names: Sequence[str],
    category_ids: Sequence[int] | None,
    entries: Iterable[tuple[str, Entry]],
) -> None:
    """Write both files, each whole or not at all.

    * ``predictions.json``: results in COCO's format, masks as run-length codes, at the images' own
      sizes.
    * ``images.json``: ``images`` (``id``, ``file_name``, ``height``, ``width``), ``categories`` and
      empty ``annotations``: what COCO's tools read results beside.

    Args:
        folder: it exists.
        class_names: of every class; empty for models that know none.
        category_ids: by class; None: the classes are the ids.
        entries: name and detections of each image. The ids are their numbers from 1.
    """
    ids = category_ids or range(len(class_names))
    categories = [
        {"id": number, "name": name} for number, name in zip(ids, class_names, strict=False)
    ] or [{"id": 1, "name": "object"}]
    with (
        written_whole(str(folder / RESULTS_FILE)) as results_file,
        written_whole(str(folder / IMAGES_FILE)) as images_file,
    ):
        results, images = JsonList(results_file), JsonList(images_file)
        head = json.dumps({"annotations": [], "categories": categories})
        images_file.write(head[:-1].encode() + b', "images": ')
        for number, (name, entry) in enumerate(entries, start=1):
            size = {"height": entry["height"], "width": entry["width"]}
            images.add([{"id": number, "file_name": name, **size}])
            results.add([{"image_id": number, **result} for result in entry["results"]])
        results.close()
        images.close()
        images_file.write(b"}")
