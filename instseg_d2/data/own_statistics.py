"""What is in a data set in COCO's format: counts, sizes, classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tabulate import tabulate

SIZE_LIMITS = {"small": 32**2, "medium": 96**2, "large": float("inf")}
"""COCO's classes of objects by area: below so many pixels, and not of a smaller class."""
MAX_CLASSES_SHOWN = 100


@dataclass(frozen=True)
class DataStatistics:
    """Counts of one data set. Objects are annotations that are no crowds and belong to an image.

    Attributes:
        images: number of images.
        empty: how many of them have no object.
        objects, crowds: numbers of annotations.
        image_sizes: (width, height) in pixels -> number of images.
        classes: name -> number of objects, of every category.
        sizes: "small", "medium", "large" -> number of objects.
        most: most objects in one image.
        fullest: the id of that image.
    """

    images: int
    empty: int
    objects: int
    crowds: int
    image_sizes: Counter[tuple[int, int]]
    classes: Counter[str]
    sizes: Counter[str]
    most: int
    fullest: Any

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> DataStatistics:
        """Count.

        Args:
            content: of an annotation file that
                :func:`instseg_d2.data.coco_json.check_coco_content` has found usable.
        """
        names = {category["id"]: str(category["name"]) for category in content["categories"]}
        counts = dict.fromkeys((image["id"] for image in content["images"]), 0)
        classes = Counter(dict.fromkeys(names.values(), 0))
        sizes = Counter(dict.fromkeys(SIZE_LIMITS, 0))
        crowds = 0
        for annotation in content.get("annotations", ()):
            if annotation["image_id"] not in counts:
                continue
            if annotation.get("iscrowd", 0):
                crowds += 1
                continue
            counts[annotation["image_id"]] += 1
            classes[names[annotation["category_id"]]] += 1
            sizes[_size_class(annotation)] += 1
        fullest = max(counts, key=counts.__getitem__)
        return cls(
            images=len(counts),
            empty=sum(count == 0 for count in counts.values()),
            objects=sum(counts.values()),
            crowds=crowds,
            image_sizes=Counter((image["width"], image["height"]) for image in content["images"]),
            classes=classes,
            sizes=sizes,
            most=counts[fullest],
            fullest=fullest,
        )

    def rows(self) -> dict[str, str]:
        """What :func:`statistics_table` shows above the classes."""
        widths, heights = zip(*self.image_sizes, strict=True)
        (common, number), *others = self.image_sizes.most_common()
        size = _times(*common)
        if others:
            low, high = _times(min(widths), min(heights)), _times(max(widths), max(heights))
            size = f"{low} to {high}, most often {size} ({number})"
        return {
            "images": str(self.images),
            "without objects": str(self.empty),
            "sizes (width x height)": size,
            "objects": str(self.objects),
            "crowds": str(self.crowds),
            "small, medium, large": ", ".join(str(self.sizes[name]) for name in SIZE_LIMITS),
            "most in an image": f"{self.most} (image id {self.fullest})" if self.most else "0",
        }


def _times(width: int, height: int) -> str:
    return f"{width} x {height}"


def _size_class(annotation: Mapping[str, Any]) -> str:
    """By the annotated area; of annotations without one, by that of the box, if it has one."""
    area, box = annotation.get("area"), annotation.get("bbox")
    try:
        area = float(area if area is not None else box[2] * box[3])  # type: ignore[index]
    except (IndexError, KeyError, TypeError, ValueError):
        area = 0.0  # whether it can do without is for the checks of training and evaluation
    return next((name for name, limit in SIZE_LIMITS.items() if area < limit), "large")


def statistics_table(parts: Mapping[str, DataStatistics], classes: Sequence[str]) -> str:
    """Data sets side by side, for people.

    Args:
        parts: name -> statistics, at least one.
        classes: names in the order of the model.
    """
    columns = [part.rows() for part in parts.values()]
    rows = [[title, *(column[title] for column in columns)] for title in columns[0]]
    shown = list(enumerate(classes))
    if len(shown) > MAX_CLASSES_SHOWN:
        shown.sort(key=lambda pair: -sum(part.classes[pair[1]] for part in parts.values()))
    for index, name in shown[:MAX_CLASSES_SHOWN]:
        counts = [str(part.classes[name]) for part in parts.values()]
        rows.append([f"class {index}, {name}", *counts])
    table = tabulate(rows, headers=["", *parts], tablefmt="simple", disable_numparse=True)
    left = len(classes) - MAX_CLASSES_SHOWN
    return table + (f"\n... and {left} rarer classes" if left > 0 else "")
