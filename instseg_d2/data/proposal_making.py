"""Running a model over the images of a data set and keeping its proposals, part by part."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import nn
from tqdm import tqdm

from ..errors import DataError
from ..run_settings import Settings
from .image_proposals import ImageProposals
from .proposal_answers import Mapper, Record, outcomes
from .proposal_parts import Part, PartFolder, gaps


@dataclass(frozen=True)
class Making:
    """How the images are worked through.

    Attributes:
        shard: (i, n): the i-th of n equal pieces, i from 1.
        limit: only so many images, the first; None: all.
        part_size: images in a part.
        best: so many proposals of an image are kept; None: all.
        masks: keep masks: True, False, or None for yes if the model gives some.
        skip_errors: go on after an image that cannot be worked on.
        overwrite: begin anew where there are parts.
        num_workers: processes that read images.
    """

    shard: tuple[int, int] = (1, 1)
    limit: int | None = None
    part_size: int = 200
    best: int | None = None
    masks: bool | None = None
    skip_errors: bool = False
    overwrite: bool = False
    num_workers: int = 0

    def images(self, count: int) -> range:
        """The places of the images to work on, of ``count`` in the data set."""
        index, shards = self.shard
        count = count if self.limit is None else self.limit
        return range(count * (index - 1) // shards, count * index // shards)


@dataclass
class Made:
    """What was done.

    Attributes:
        images: that this run has done.
        before: images of its shard that were done before.
        failures: of each image that was left out, the reason.
        model_failures: how many of these are the model's fault: its answer held infinite values or
            NaN.
    """

    images: int = 0
    before: int = 0
    failures: list[str] = field(default_factory=list)
    model_failures: int = 0


def make_parts(
    model: nn.Module,
    records: Sequence[Record],
    mapper: Mapper,
    folder: PartFolder,
    settings: Settings,
    how: Making,
) -> Made:
    """Run the model over those images that are not done yet.

    Whatever ends the run, parts that are finished stay, and but for a killed process so does
    everything else that is done.

    Args:
        model: in eval mode; see :func:`.proposal_answers.answer`.
        records: all images of the data set, in its order, in Detectron2's format.
        mapper: a record -> what the model reads.
        folder: where the parts are kept.
        settings: what the parts depend on.

    Raises:
        DataError: parts are there that were made otherwise; or, unless ``skip_errors``, an image
            cannot be worked on.
        ConfigError: the model does not answer with proposals, or not with masks.
    """
    block = how.images(len(records))
    parts = _parts_to_keep(folder, settings, block, how.overwrite)
    missing = gaps(parts, block.start, block.stop)
    places = [place for gap in missing for place in gap]
    made = Made(before=len(block) - len(places))
    if not places:
        return made
    folder.remove_stale_files()
    for merged in (folder.boxes_file, folder.masks_file):  # of fewer images than there will be
        merged.unlink(missing_ok=True)
    buffer = _Buffer(folder, settings, how.part_size)
    with tqdm(
        total=len(block), initial=made.before, unit="image", desc=_title(how), dynamic_ncols=True
    ) as bar:
        try:
            todo = [records[place] for place in places]
            found = outcomes(model, todo, mapper, masks=how.masks, num_workers=how.num_workers)
            for place, outcome in zip(places, found, strict=True):
                if isinstance(outcome, ImageProposals):
                    buffer.add(place, outcome.best(how.best))
                    made.images += 1
                elif how.skip_errors:
                    made.failures.append(outcome.message)
                    made.model_failures += outcome.model_at_fault
                    bar.write(f"left out: {outcome.message}", file=sys.stderr)
                else:
                    raise DataError(outcome.message)
                bar.update()
        finally:
            buffer.flush()
    return made


def _title(how: Making) -> str:
    return "proposals" if how.shard[1] == 1 else f"shard {how.shard[0]}/{how.shard[1]}"


def _parts_to_keep(
    folder: PartFolder, settings: Settings, block: range, overwrite: bool
) -> list[Part]:
    """The finished parts, of which those in the way are removed if they may be.

    Those of other shards stay, if they were made in the same way.
    """
    parts = folder.parts()
    others = [part for part in parts if Settings(part.settings).differences(settings)]
    if not overwrite:
        if others:
            differences = Settings(others[0].settings).differences(settings)
            raise DataError(
                f"{folder.path} has finished parts that were made in another way. Then and now:\n  "
                + "\n  ".join(differences)
                + "\nChange that back, choose another --output, or give --overwrite to begin anew."
            )
        return parts
    own = [part for part in parts if part.start < block.stop and part.stop > block.start]
    folder.remove([*others, *own])
    return [part for part in parts if part not in others and part not in own]


class _Buffer:
    """Finished images that are no part yet."""

    def __init__(self, folder: PartFolder, settings: Settings, part_size: int) -> None:
        self._folder = folder
        self._settings = settings
        self._part_size = part_size
        self._start = 0
        self._images: list[ImageProposals] = []

    def add(self, place: int, proposals: ImageProposals) -> None:
        """Take the image at this place; places ascend."""
        if place != self._start + len(self._images):
            self.flush()
        if not self._images:
            self._start = place
        self._images.append(proposals)
        if len(self._images) == self._part_size:
            self.flush()

    def flush(self) -> None:
        """Write them as a part, if there are any."""
        images, self._images = self._images, []
        if images:
            self._folder.write(self._start, images, self._settings)
