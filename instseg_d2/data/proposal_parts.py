"""Finished parts of a long run.

A part has the proposals of neighbouring images of a data set. In its folder it is three files,
named by the first image and the one after the last, counted from 0::

    000000200-000000400.pkl    boxes, as Detectron2 reads them
    000000200-000000400.json   masks, as results in COCO's format (if the model gives masks)
    000000200-000000400.part   written last: how the part was made, and how long the other two are

So a part is there whole or not at all, and parts that several machines made need only be copied
into one folder.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..atomic_file import written_whole
from ..errors import DataError
from ..run_settings import Settings
from .image_proposals import ImageProposals
from .proposal_files import proposal_writer

logger = logging.getLogger(__name__)

STALE_SECONDS = 3600
"""A temporary file that nobody has written to for so long is left from a killed run."""

_FOLDER_SUFFIX = "_parts"


@dataclass(frozen=True)
class Part:
    """What a ``.part`` file says.

    Attributes:
        start, stop: the part's images by their place in the data set; ``stop`` is the one after.
        settings: how it was made; the content of :class:`Settings`.
        has_masks: whether there are masks.
        proposals, most: how many, and the most of one image.
        lengths: suffix of a file -> its bytes.
    """

    start: int
    stop: int
    settings: dict[str, Any]
    has_masks: bool
    proposals: int
    most: int
    lengths: dict[str, int]

    @property
    def name(self) -> str:
        """Of the files, without suffix."""
        return f"{self.start:09d}-{self.stop:09d}"


class PartFolder:
    """The folder of the parts of one data set; beside it are the files that they become.

    Attributes:
        path: of the folder, which need not exist.
        boxes_file, masks_file: what the parts become.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        name = path.name.removesuffix(_FOLDER_SUFFIX)
        self.boxes_file = path.with_name(f"{name}_boxes.pkl")
        self.masks_file = path.with_name(f"{name}_masks.json")

    @staticmethod
    def of_dataset(output: Path, dataset: str) -> PartFolder:
        """The folder for a data set below the folder ``output``."""
        return PartFolder(output / (dataset.replace("/", "_") + _FOLDER_SUFFIX))

    @staticmethod
    def all_in(output: Path) -> list[PartFolder]:
        """Those that there are below the folder ``output``."""
        return [PartFolder(path) for path in sorted(output.glob(f"*{_FOLDER_SUFFIX}"))]

    def parts(self) -> list[Part]:
        """The parts that are whole, in the order of their images; damaged ones are logged."""
        parts = [self._read(marker) for marker in sorted(self.path.glob("*.part"))]
        return sorted(filter(None, parts), key=lambda part: (part.start, -part.stop))

    def _read(self, marker: Path) -> Part | None:
        try:
            part = Part(**json.loads(marker.read_text()))
            if not 0 <= part.start < part.stop or marker.stem != part.name:
                raise ValueError("it is not of the images that its name says")
            for suffix, length in part.lengths.items():
                if marker.with_suffix(suffix).stat().st_size != length:
                    raise ValueError(f"{marker.with_suffix(suffix)} has not the length it had")
        except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
            logger.warning("%s is of a damaged part, which counts as absent: %s", marker, error)
            return None
        return part

    def file(self, part: Part, suffix: str) -> Path:
        """The path of one of a part's files."""
        return self.path / f"{part.name}{suffix}"

    def write(self, start: int, images: Sequence[ImageProposals], settings: Settings) -> None:
        """Write a part.

        Args:
            start: the place of the first image in the data set; the others follow it there.
            images: at least one.

        Raises:
            DataError: some images have masks and others do not.
        """
        with_masks = [proposals.rles is not None for proposals in images]
        if any(with_masks) != all(with_masks):
            odd = images[with_masks.index(False)].image_id
            raise DataError(f"the model gave no masks for image id {odd!r}, but for others it did")
        part = Part(
            start=start,
            stop=start + len(images),
            settings=settings.content,
            has_masks=all(with_masks),
            proposals=sum(map(len, images)),
            most=max(map(len, images)),
            lengths={},
        )
        self.path.mkdir(parents=True, exist_ok=True)
        for suffix in (".pkl", ".json") if part.has_masks else (".pkl",):
            file = self.file(part, suffix)
            with proposal_writer(file) as writer:
                for proposals in images:
                    writer.add(proposals)
            part.lengths[suffix] = file.stat().st_size
        with written_whole(str(self.file(part, ".part"))) as marker:
            marker.write(json.dumps(asdict(part), indent=1).encode())

    def remove(self, parts: Iterable[Part]) -> None:
        """Remove parts, the marker first."""
        for part in parts:
            for suffix in (".part", ".json", ".pkl"):
                self.file(part, suffix).unlink(missing_ok=True)

    def remove_stale_files(self) -> None:
        """Remove what killed runs left half written."""
        merged = [
            file
            for target in (self.boxes_file, self.masks_file)
            for file in target.parent.glob(f"{target.name}.*.tmp")
        ]
        for file in [*self.path.glob("*.tmp"), *merged]:
            with contextlib.suppress(OSError):  # another process may have removed it
                if time.time() - file.stat().st_mtime > STALE_SECONDS:
                    file.unlink()


def gaps(parts: Iterable[Part], start: int, stop: int) -> list[range]:
    """The images from ``start`` up to ``stop`` that no part has. The parts are in order."""
    found = []
    for part in parts:
        if start < part.start and start < stop:
            found.append(range(start, min(part.start, stop)))
        start = max(start, part.stop)
    if start < stop:
        found.append(range(start, stop))
    return found
