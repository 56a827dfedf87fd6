"""All checks of a data set, one after the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from ..data.coco_json import read_coco_json
from .annotations import AnnotationCheck, LabelledObject
from .duplicates import report_duplicates
from .entries import ImageEntry, entries_of, read_categories, read_images
from .image_files import check_files
from .problems import Problems

RARE_SHARE = 0.01
"""A class with fewer objects than this share of the most frequent one's is rare."""


@dataclass(frozen=True)
class CheckedData:
    """A data set and what was found in it.

    Attributes:
        json_file: its annotations.
        image_root: the folder of its images; None if these were not looked at.
        images: all, in the order of the file.
        categories: names by id.
        annotations: as the JSON has them.
        objects: those that can be used.
        problems: what was found.
    """

    json_file: str
    image_root: str | None
    images: list[ImageEntry]
    categories: dict[Any, str]
    annotations: list[dict[str, Any]]
    objects: list[LabelledObject]
    problems: Problems


def check_dataset(
    json_file: str, image_root: str | None, *, ignored: Collection[str] = (), num_workers: int = 4
) -> CheckedData:
    """Check a data set in COCO's format.

    Args:
        json_file: its annotations.
        image_root: the folder of its images; None: they are not looked at.
        ignored: codes of problems that are not reported.
        num_workers: threads that read images.

    Raises:
        DataError: the file is no JSON, or its top level no object.
    """
    content = read_coco_json(json_file)
    problems = Problems(ignored)
    images = read_images(content, problems)
    categories = read_categories(content, problems)
    annotations = entries_of(content, "annotations", problems)
    objects = _check_annotations(images, categories, annotations, problems)
    report_duplicates(annotations, images, objects, problems)
    _report_use(images, categories, annotations, objects, problems)
    if image_root is not None:
        check_files(images, image_root, problems, num_workers=num_workers)
    return CheckedData(json_file, image_root, images, categories, annotations, objects, problems)


def _check_annotations(
    images: list[ImageEntry],
    categories: dict[Any, str],
    annotations: list[dict[str, Any]],
    problems: Problems,
) -> list[LabelledObject]:
    check = AnnotationCheck(images, categories, problems)
    objects = []
    for position, annotation in enumerate(
        tqdm(annotations, "checking annotations", unit="annotation", delay=1)
    ):
        found = check.look_at(annotation, position)
        if found is not None:
            objects.append(found)
    check.finish()
    return objects


def _report_use(
    images: list[ImageEntry],
    categories: dict[Any, str],
    annotations: list[dict[str, Any]],
    objects: list[LabelledObject],
    problems: Problems,
) -> None:
    """Report images and categories without objects, and rare categories."""
    used = {one.image for one in objects}
    for image in images:
        if image.number not in used:
            problems.add("image-without-objects", "no usable annotation", image.place())
    counts = Counter(one.category_id for one in objects if not one.is_crowd)
    if annotations and not counts:
        problems.add("no-objects", f"none of the {len(annotations)} annotations can be used")
    most = max(counts.values(), default=0)
    for category_id, name in categories.items():
        count = counts[category_id]
        if not count:
            problems.add("unused-category", f"category {category_id} ({name})")
        elif count < RARE_SHARE * most:
            problems.add(
                "class-imbalance",
                f"category {category_id} ({name}): {count} objects; the most frequent one has "
                f"{most}",
            )
