"""The recall of proposals as numbers, a table and a JSON file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from instseg_d2.atomic_file import written_whole
from instseg_d2.errors import ConfigError

from .proposal_recall import BOXES, MASKS, ProposalRecall
from .recall import AREA_RANGES, AUC_PROPOSALS, IOU_THRESHOLDS, RecallCounts, area_under_curve
from .recall_objects import GroundTruth
from .recall_plots import plot_average_recall, plot_recall_against_iou

DEFAULT_LIMITS = (10, 100, 1000)
JSON_NAME = "proposal_recall.json"
#: Detectron2's letters: ``ARs@100`` is the AR of small objects with 100 proposals.
_LETTERS = {"all": "", "small": "s", "medium": "m", "large": "l"}
_TASK_NAMES = {BOXES: "boxes", MASKS: "masks"}


def checked_limits(limits: Iterable[int]) -> tuple[int, ...]:
    """Numbers of proposals to state the recall at, sorted, each once.

    Raises:
        ConfigError: none, or one that is no whole number above 0.
    """
    unique = sorted(set(limits))
    if not unique or any(limit != int(limit) or limit < 1 for limit in unique):
        raise ConfigError(
            f"the numbers of proposals to state the recall at are {list(limits)}; give whole "
            "numbers above 0, such as 10, 100 and 1000"
        )
    return tuple(int(limit) for limit in unique)


def depth_for(limits: Iterable[int]) -> int:
    """How many proposals of an image matter: the greatest limit, and as many as the AUC needs."""
    return max(AUC_PROPOSALS, *limits)


def metric_names(limits: Iterable[int]) -> list[str]:
    """The names of :meth:`RecallReport.results` for one task."""
    limits = tuple(limits)
    recalls = [f"AR{_LETTERS[area]}@{limit}" for area in AREA_RANGES for limit in limits]
    return [*recalls, "AUC", "mean AR"]


@dataclass(frozen=True)
class RecallReport:
    """The recall of proposals on a data set, and what it was measured on.

    Attributes:
        dataset: for people.
        num_images: of the data set.
        num_absent: images of it that nobody gave proposals for; their objects count as not found.
        num_proposals: of each image that came.
        num_without_mask: objects that have no mask, and take no part where masks are matched.
        limits: numbers of proposals to state the recall at.
        counts: by task, boxes before masks.
    """

    dataset: str
    num_images: int
    num_absent: int
    num_proposals: tuple[int, ...]
    num_without_mask: int
    limits: tuple[int, ...]
    counts: dict[str, RecallCounts]

    @classmethod
    def of(
        cls, recall: ProposalRecall, truth: GroundTruth, limits: tuple[int, ...]
    ) -> RecallReport:
        """
        Raises:
            DataError: see :meth:`ProposalRecall.results`.
        """
        return cls(
            dataset=truth.name,
            num_images=len(truth),
            num_absent=len(truth) - len(recall.num_proposals),
            num_proposals=tuple(recall.num_proposals.values()),
            num_without_mask=sum(int((~objects.has_mask).sum()) for objects in truth),
            limits=limits,
            counts=recall.results(truth),
        )

    def results(self) -> dict[str, dict[str, float]]:
        """``{"box_proposals": {"AR@10", "AR@100", "AR@1000", "ARs@10", ..., "ARl@1000", "AUC",
        "mean AR"}, "mask_proposals": likewise}`` in percent; nan where there are no objects.

        ``AUC`` is the papers' (:func:`area_under_curve`, to 1000 proposals), ``mean AR`` the plain
        mean of the AR at the limits.
        """
        results = {}
        for task, counts in self.counts.items():
            rows = {area: self._row(counts, area) for area in AREA_RANGES}
            results[task] = {
                f"AR{_LETTERS[area]}@{limit}": rows[area][f"AR@{limit}"]
                for area in AREA_RANGES
                for limit in self.limits
            } | {name: rows["all"][name] for name in ("AUC", "mean AR")}
        return results

    def _row(self, counts: RecallCounts, area: str) -> dict[str, float]:
        """The numbers of one area range in percent."""
        curve = 100 * counts.average_recalls(area)
        at = {f"AR@{limit}": float(curve[limit - 1]) for limit in self.limits}
        mean = sum(at.values()) / len(at)
        return {**at, "AUC": area_under_curve(curve[:AUC_PROPOSALS]), "mean AR": mean}

    def table(self) -> str:
        """For the screen."""
        rows = []
        for task, counts in self.counts.items():
            for area, objects in zip(AREA_RANGES, counts.objects, strict=True):
                row = self._row(counts, area).values()
                rows.append([f"{_TASK_NAMES[task]}, {area}", objects, *row])
        limits = (f"AR@{limit}" for limit in self.limits)
        headers = ["", "objects", *limits, "AUC", "mean AR"]
        table = tabulate(rows, headers, tablefmt="pipe", floatfmt=".1f")
        return f"{self.heading()}\n{table}"

    def heading(self) -> str:
        """What was measured on what, in words."""
        found = self.num_proposals or (0,)
        thresholds = f"{IOU_THRESHOLDS[0]:.2f} to {IOU_THRESHOLDS[-1]:.2f}"
        objects = next(iter(self.counts.values())).objects[0]
        lines = [
            f"Recall of class-agnostic proposals on {self.dataset}: {self.num_images} images, "
            f"{objects} objects without crowds.",
            f"{np.mean(found):.1f} proposals an image ({min(found)} to {max(found)}). AR: mean "
            f"recall at {len(IOU_THRESHOLDS)} IoU thresholds from {thresholds}, in percent; AUC: "
            f"area under AR over log10(proposals), 1 to {AUC_PROPOSALS}.",
        ]
        if self.num_absent:
            lines.append(
                f"{self.num_absent} images had no proposals given; their objects count as missed."
            )
        if MASKS in self.counts and self.num_without_mask:
            lines.append(f"{self.num_without_mask} objects have no mask: they count as boxes only.")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """:meth:`results`, and beside them the settings and all curves, in percent too; null stands
        for nan."""
        found = self.num_proposals or (0,)
        curves = {
            task: {
                area: {
                    "objects": int(counts.objects[index]),
                    "recall_at": {
                        str(limit): (100 * counts.recalls(area)[:, limit - 1]).tolist()
                        for limit in self.limits
                    },
                    "average_recall": (100 * counts.average_recalls(area)).tolist(),
                }
                for index, area in enumerate(AREA_RANGES)
            }
            for task, counts in self.counts.items()
        }
        content = {
            **self.results(),
            "dataset": self.dataset,
            "images": self.num_images,
            "images_without_proposals_given": self.num_absent,
            "objects_without_mask": self.num_without_mask,
            "proposals": {"mean": float(np.mean(found)), "least": min(found), "most": max(found)},
            "limits": list(self.limits),
            "iou_thresholds": IOU_THRESHOLDS.round(2).tolist(),
            "area_ranges": {name: list(ends) for name, ends in AREA_RANGES.items()},
            "curves": curves,
        }
        return _without_nan(content)

    def write(self, folder: str) -> None:
        """Write ``proposal_recall.json``, ``recall_against_iou.png`` and
        ``recall_against_count.png`` into a folder, which is made if need be."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        with written_whole(str(Path(folder) / JSON_NAME)) as file:
            file.write(json.dumps(self.to_json(), allow_nan=False).encode())
        named = {_TASK_NAMES[task]: counts for task, counts in self.counts.items()}
        plot_recall_against_iou(named, self.limits, str(Path(folder) / "recall_against_iou.png"))
        plot_average_recall(named, str(Path(folder) / "recall_against_count.png"))


def _without_nan(value: Any) -> Any:
    """The same with None for nan, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value
