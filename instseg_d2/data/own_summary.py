"""What a run says of the user's own data: a table, and what to look at."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detectron2.config import CfgNode

from ..families import config_value, family_of
from .own_statistics import DataStatistics, statistics_table

logger = logging.getLogger(__name__)

ROOM = 1.25
"""So many times the most objects that an image of the data has, for images to come."""


def suggested_limit(most: int) -> int:
    """A limit of instances per image for data with at most ``most``: with room, in tens."""
    return max(10, math.ceil(most * ROOM / 10) * 10)


@dataclass(frozen=True)
class OwnSummary:
    """What the own data holds.

    Attributes:
        parts: name of the data set -> its statistics; those that were read.
        classes: names in the order of the model.
        classes_from: the key or file that numbers them so.
        shared: images that are in the training and in the validation data.
    """

    parts: dict[str, DataStatistics]
    classes: list[str]
    classes_from: str
    shared: list[str]

    @classmethod
    def of(
        cls,
        contents: Mapping[str, Any],
        roots: Mapping[str, str],
        classes: Sequence[str],
        classes_from: str,
    ) -> OwnSummary:
        """Sum up.

        Args:
            contents: name of the data set -> content of its checked annotation file.
            roots: name of the data set -> folder of its images.
            classes: names in the order of the model.
            classes_from: the key or file that numbers them so.
        """
        paths = [
            {os.path.normpath(os.path.join(roots[name], i["file_name"])) for i in content["images"]}
            for name, content in contents.items()
        ]
        return cls(
            parts={name: DataStatistics.of(content) for name, content in contents.items()},
            classes=list(classes),
            classes_from=classes_from,
            shared=sorted(set.intersection(*paths)) if len(paths) > 1 else [],
        )

    def log(self, cfg: CfgNode) -> None:
        """Log the table, what is odd, and a suggestion for the limit of instances, if the model of
        ``cfg`` has one."""
        if not self.parts:
            return
        logger.info(
            "Own data (classes numbered by %s):\n%s",
            self.classes_from,
            statistics_table(self.parts, self.classes),
        )
        train = self.parts.get("own_train")
        if train is not None:
            absent = [name for name in self.classes if not train.classes[name]]
            if absent:
                logger.warning(
                    "The training data has no object of %d of the %d classes: %s",
                    len(absent),
                    len(self.classes),
                    ", ".join(absent),
                )
            if "own_val" not in self.parts and not cfg.DATASETS.TEST:
                logger.warning(
                    "No validation data: trained without evaluation, and no AP is printed. "
                    "--val-json and --val-images name some."
                )
        if self.shared:
            logger.warning(
                "%d images are in the training and in the validation data, for example %s: the "
                "validation will look better than it is.",
                len(self.shared),
                self.shared[0],
            )
        limit = self._limit(cfg)
        if limit:
            logger.info(limit)

    def _limit(self, cfg: CfgNode) -> str:
        family = family_of(cfg)
        key = family.max_instances_key if family else None
        if key is None:
            return ""
        most, now = max(part.most for part in self.parts.values()), config_value(cfg, key)
        suggested = suggested_limit(most)
        if now == suggested:
            return f"The most objects in one image are {most}: {key} {now} leaves some room."
        return (
            f"The most objects in one image are {most}, the model finds {now}. With some room:\n"
            f"  {key} {suggested}\n"
            + (
                "Fewer are faster. But what depends on that number starts from random values "
                "unless MODEL.WEIGHTS was trained with the same; to fine-tune, leave it as it was."
                if suggested < now
                else "With fewer the rest are missed."
            )
        )
