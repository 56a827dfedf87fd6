"""From finished parts to one file of boxes and one of masks."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError
from ..run_settings import Settings
from .proposal_files import boxes_writer, read_proposal_file, results_writer
from .proposal_parts import Part, PartFolder, gaps


@dataclass(frozen=True)
class Merged:
    """What was written.

    Attributes:
        files: their paths.
        images, proposals, most: how many, and the most proposals of one image.
        missing: images of the data set that no part has.
    """

    files: list[Path]
    images: int
    proposals: int
    most: int
    missing: int


def merge_parts(folder: PartFolder, *, allow_missing: bool = False) -> Merged:
    """Write the proposals of all parts into one file of boxes and, if there are, one of masks.

    Memory is needed for one part.

    Args:
        folder: of the parts; the files come to lie beside it, each of them whole or not at all.
        allow_missing: also if there are no parts yet for some images.

    Raises:
        DataError: images lack, or the parts were made in different ways or overlap.
    """
    parts = _distinct(folder)
    check_alike(folder, parts)
    missing = gaps(parts, 0, parts[0].settings["images"])
    if missing and not allow_missing:
        raise DataError(
            f"{folder.path}: {sum(map(len, missing))} of {parts[0].settings['images']} images are "
            f"not done yet: {described(missing)}, counted from 0. Run tools/make_proposals.py "
            "for them, or give --allow-missing."
        )
    with contextlib.ExitStack() as stack:
        boxes = stack.enter_context(boxes_writer(str(folder.boxes_file)))
        files = [folder.boxes_file]
        if parts[0].has_masks:
            masks = stack.enter_context(results_writer(str(folder.masks_file)))
            files.append(folder.masks_file)
        for part in parts:
            for proposals in read_proposal_file(folder.file(part, ".pkl")):
                boxes.add(proposals)
            if part.has_masks:
                masks.add_file(str(folder.file(part, ".json")))
    return Merged(
        files=files,
        images=sum(part.stop - part.start for part in parts),
        proposals=sum(part.proposals for part in parts),
        most=max(part.most for part in parts),
        missing=sum(map(len, missing)),
    )


def described(missing: Sequence[range]) -> str:
    """The first few of the images' places, for a message."""
    shown = [
        str(place.start) if len(place) == 1 else f"{place.start} to {place.stop - 1}"
        for place in missing[:3]
    ]
    return ", ".join(shown) + (", ..." if len(missing) > 3 else "")


def _distinct(folder: PartFolder) -> list[Part]:
    """The parts, without those that lie within another."""
    parts: list[Part] = []
    for part in folder.parts():
        if not parts or part.stop > parts[-1].stop:
            parts.append(part)
    if not parts:
        raise DataError(f"{folder.path} has no finished parts; tools/make_proposals.py makes them.")
    for one, following in itertools.pairwise(parts):
        if following.start < one.stop:
            raise DataError(
                f"{folder.path}: the parts {one.name} and {following.name} overlap. Delete the "
                ".part file of one of them, and run tools/make_proposals.py for what then lacks."
            )
    return parts


def check_alike(folder: PartFolder, parts: Sequence[Part]) -> None:
    """Raise ``DataError`` unless all parts were made in the same way."""
    for part in parts[1:]:
        differences = Settings(parts[0].settings).differences(Settings(part.settings))
        if part.has_masks != parts[0].has_masks:
            differences.append("one has masks, the other has not")
        if differences:
            raise DataError(
                f"{folder.path}: the parts {parts[0].name} and {part.name} were made in different "
                "ways:\n  " + "\n  ".join(differences) + "\nDelete one kind, or make all anew: "
                "tools/make_proposals.py --overwrite"
            )
