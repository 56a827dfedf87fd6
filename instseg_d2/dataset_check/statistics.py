"""What is in a data set: numbers and sizes of images and objects. Crowds are counted apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..data.own_statistics import SIZE_LIMITS
from ..data.own_summary import suggested_limit
from .annotations import LabelledObject
from .check import CheckedData
from .entries import ImageEntry


class ClassCounts(NamedTuple):
    """Of one category: objects, crowds, images with an object, and objects by size."""

    name: str
    objects: int
    crowds: int
    images: int
    small: int
    medium: int
    large: int


@dataclass(frozen=True)
class Statistics:
    """Of M objects in N images.

    Attributes:
        classes: by category, in the order of the ids.
        per_image: (N,) objects.
        image_sizes: (K, 2) height and width of the images whose size is known.
        areas: (M,) pixels.
        sides: (M, 2) width and height of the boxes in pixels.
        centres: (L, 2) x and y of the boxes' centres relative to the image, 0..1, of the objects in
            images whose size is known.
        shares: (L,) of the image that the mask covers, 0..1.
        crowds: number of crowd regions.
        without_mask: number of objects without a mask.
    """

    classes: list[ClassCounts]
    per_image: np.ndarray
    image_sizes: np.ndarray
    areas: np.ndarray
    sides: np.ndarray
    centres: np.ndarray
    shares: np.ndarray
    crowds: int
    without_mask: int

    @property
    def num_masks(self) -> int:
        """A value for ``NUM_MASKS``: enough for the fullest image, with room."""
        return suggested_limit(int(self.per_image.max(initial=0)))

    def size_counts(self) -> dict[str, int]:
        """Objects by COCO's size classes."""
        counts = np.bincount(size_classes(self.areas), minlength=len(SIZE_LIMITS))
        return dict(zip(SIZE_LIMITS, counts.tolist(), strict=True))

    def summary(self) -> dict[str, Any]:
        """The figures, for JSON."""
        return {
            "images": len(self.per_image),
            "images_without_objects": int((self.per_image == 0).sum()),
            "objects": len(self.areas),
            "objects_without_mask": self.without_mask,
            "crowds": self.crowds,
            "objects_by_size": self.size_counts(),
            "objects_per_image": _spread(self.per_image),
            "image_width": _spread(self.image_sizes[:, 1]),
            "image_height": _spread(self.image_sizes[:, 0]),
            "suggested_num_masks": self.num_masks,
            "classes": [counts._asdict() for counts in self.classes],
        }

    def lines(self) -> list[str]:
        """The figures, for people."""
        summary = self.summary()
        sizes = ", ".join(f"{n} {name}" for name, n in summary["objects_by_size"].items())
        named = sum(counts.objects > 0 for counts in self.classes)
        lines = [
            f"{summary['images']} images, {summary['images_without_objects']} of them without "
            "objects",
            f"{summary['objects']} objects ({sizes}) and {self.crowds} crowds in {named} of "
            f"{len(self.classes)} categories",
        ]
        if len(self.per_image):
            spread = summary["objects_per_image"]
            lines.append(
                f"objects per image: median {spread['median']:g}, most {spread['most']:g}; "
                f"suggested MODEL.SPARSE_INST.DECODER.NUM_MASKS {self.num_masks} (the published "
                "models have 100)"
            )
        return lines


def size_classes(areas: np.ndarray) -> np.ndarray:
    """Of (M,) areas in pixels: which of :data:`.own_statistics.SIZE_LIMITS` each is in, from 0."""
    return np.searchsorted(list(SIZE_LIMITS.values()), areas, side="right")


def statistics_of(data: CheckedData) -> Statistics:
    """Count what is in a data set."""
    objects = [one for one in data.objects if not one.is_crowd]
    per_image = np.bincount([one.image for one in objects], minlength=len(data.images))
    sizes = [image.size for image in data.images if image.size is not None]
    boxes = np.array([one.box for one in objects]).reshape(-1, 4)
    areas = np.array([one.area for one in objects], float)
    centres, shares = _relative(objects, data.images)
    return Statistics(
        classes=_classes(data),
        per_image=per_image,
        image_sizes=np.array(sizes, float).reshape(-1, 2),
        areas=areas,
        sides=boxes[:, 2:] - boxes[:, :2],
        centres=centres,
        shares=shares,
        crowds=len(data.objects) - len(objects),
        without_mask=sum(not one.has_mask for one in objects),
    )


def _relative(
    objects: Sequence[LabelledObject], images: Sequence[ImageEntry]
) -> tuple[np.ndarray, np.ndarray]:
    """Centres and shares of the objects in images of known size."""
    rows = [
        ((one.box[0] + one.box[2]) / 2 / size[1], (one.box[1] + one.box[3]) / 2 / size[0],
         one.area / (size[0] * size[1]))
        for one in objects
        if (size := images[one.image].size) is not None
    ]  # fmt: skip
    table = np.clip(np.array(rows, float).reshape(-1, 3), 0, 1)
    return table[:, :2], table[:, 2]


def _classes(data: CheckedData) -> list[ClassCounts]:
    crowds = Counter(one.category_id for one in data.objects if one.is_crowd)
    objects = [one for one in data.objects if not one.is_crowd]
    images = Counter(category_id for category_id, _ in {(o.category_id, o.image) for o in objects})
    in_class = size_classes(np.array([one.area for one in objects])).tolist()
    sizes = Counter(zip((one.category_id for one in objects), in_class, strict=True))
    found = []
    for category_id, name in data.categories.items():
        counts = [sizes[category_id, index] for index in range(len(SIZE_LIMITS))]
        found.append(
            ClassCounts(name, sum(counts), crowds[category_id], images[category_id], *counts)
        )
    return found


def _spread(values: np.ndarray) -> dict[str, float] | None:
    if not len(values):
        return None
    least, median, most = np.quantile(values, (0, 0.5, 1)).tolist()
    return {"least": least, "median": median, "mean": float(values.mean()), "most": most}
