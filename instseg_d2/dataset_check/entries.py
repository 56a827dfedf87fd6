"""The lists of images and categories: ids, names, sizes."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from typing import Any, NamedTuple

from .problems import Place, Problems, shown

MAX_NUMBER = 1e12
"""With larger coordinates and areas one cannot calculate."""


MAX_SIDE = 10**6
"""Pixels; no image is larger, and products of two sides stay small."""


class ImageEntry(NamedTuple):
    """An image as the JSON has it.

    Attributes:
        number: its place in the list, from 0.
        image_id: None if it has no usable one.
        file: None if it has no usable name.
        height, width: in pixels, above 0; None if they are not usable.
    """

    number: int
    image_id: Any
    file: str | None
    height: int | None
    width: int | None

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width), if both are known."""
        if self.height is None or self.width is None:
            return None
        return self.height, self.width

    def place(self, annotation_id: Any = None) -> Place:
        return Place(self.file, self.image_id, annotation_id)


def is_number(value: Any) -> bool:
    """Whether a JSON value is a number; true and false are none."""
    return type(value) is int or type(value) is float


def is_finite(value: int | float) -> bool:
    """Whether a number is finite, and no larger than anything in an image can be."""
    return abs(value) <= MAX_NUMBER  # nor is NaN


def entries_of(content: dict[str, Any], key: str, problems: Problems) -> list[dict[str, Any]]:
    """The objects in a list of the file; what else is in it is reported."""
    entries = content.get(key)
    if key not in content:
        problems.add("list-missing", f"the file has no list '{key}'")
        return []
    if not isinstance(entries, list):
        problems.add("wrong-type", f"'{key}' is {shown(entries)}, expected a list")
        return []
    if not entries:
        problems.add("list-missing", f"the list '{key}' is empty")
    kept = []
    for number, entry in enumerate(entries):
        if isinstance(entry, dict):
            kept.append(entry)
        else:
            problems.add("wrong-type", f"entry {number} of '{key}' is {shown(entry)}, no object")
    return kept


def report_missing(
    entry: dict[str, Any], keys: Iterable[str], what: str, place: Place, problems: Problems
) -> None:
    """Report keys that an entry lacks."""
    lacking = [key for key in keys if key not in entry]
    if lacking:
        problems.add("field-missing", f"{what} lacks {', '.join(lacking)}", place)


def checked_id(value: Any, key: str, place: Place, problems: Problems) -> Any:
    """An id, if it can be one: a number or text; else None. What is no whole number is reported."""
    if value is not None and type(value) is not int:
        problems.add("id-not-integer", f"{key} is {shown(value)}, no whole number", place)
    if type(value) is float and not math.isfinite(value):
        return None
    return value if type(value) in (int, float, str) else None


class Uniqueness:
    """Reports values that occur a second time."""

    def __init__(self, code: str, what: str, problems: Problems) -> None:
        self._code, self._what, self._problems = code, what, problems
        self._first: dict[Hashable, int] = {}

    def see(self, value: Hashable, number: int, place: Place) -> None:
        """Look at the value of entry ``number``; None is passed over."""
        if value is None:
            return
        first = self._first.setdefault(value, number)
        if first != number:
            self._problems.add(
                self._code, f"{self._what} {shown(value)}: entries {first} and {number}", place
            )


def read_images(content: dict[str, Any], problems: Problems) -> list[ImageEntry]:
    """All images of the file, their problems reported."""
    ids = Uniqueness("duplicate-image-id", "image id", problems)
    files = Uniqueness("duplicate-file-name", "file name", problems)
    images = []
    for number, entry in enumerate(entries_of(content, "images", problems)):
        file = entry.get("file_name")
        file = file if isinstance(file, str) and file else None
        place = Place(file, entry.get("id"))
        report_missing(
            entry, ("id", "file_name", "height", "width"), f"image number {number}", place, problems
        )
        image_id = checked_id(entry.get("id"), "the image's id", place, problems)
        if "file_name" in entry and file is None:
            problems.add("wrong-type", f"file_name is {shown(entry['file_name'])}, no text", place)
        sides = [_side(entry, key, place, problems) for key in ("height", "width")]
        ids.see(image_id, number, place)
        files.see(file, number, place)
        images.append(ImageEntry(number, image_id, file, *sides))
    return images


def _side(entry: dict[str, Any], key: str, place: Place, problems: Problems) -> int | None:
    value = entry.get(key)
    if type(value) is int and 0 < value <= MAX_SIDE:
        return value
    if key in entry:
        problems.add("image-size-invalid", f"{key} is {shown(value)}", place)
    return None


def read_categories(content: dict[str, Any], problems: Problems) -> dict[Any, str]:
    """Names by id, in the order of the ids, which is that of Detectron2's classes."""
    ids = Uniqueness("duplicate-category-id", "category id", problems)
    names = Uniqueness("duplicate-category-name", "category name", problems)
    categories: dict[Any, str] = {}
    for number, entry in enumerate(entries_of(content, "categories", problems)):
        what = f"category number {number}"
        place = Place()
        report_missing(entry, ("id", "name"), what, place, problems)
        category_id = checked_id(entry.get("id"), f"{what}: its id", place, problems)
        name = entry.get("name")
        if "name" in entry and not isinstance(name, str):
            problems.add("wrong-type", f"{what}: its name is {shown(name)}, no text", place)
        elif name is not None:
            names.see(name, number, place)
        ids.see(category_id, number, place)
        if category_id is not None:
            known = name if isinstance(name, str) else str(category_id)
            categories.setdefault(category_id, known)
    return dict(sorted(categories.items(), key=lambda item: (isinstance(item[0], str), item[0])))
