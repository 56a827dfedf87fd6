"""From proposal files to one of either format."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..errors import DataError, short_repr
from .image_proposals import ImageId, ImageProposals
from .proposal_files import proposal_writer, read_proposal_file


@dataclass(frozen=True)
class Conversion:
    """How to convert.

    Attributes:
        best: so many proposals an image are kept; None: all.
        raw_scores: leave scores as they are; else logits become probabilities and back, as the
            formats want it.
        gathered: gather proposals of images that do not stand together; needs memory for a file.
        empty_for: ids of images; those without proposals get an entry without boxes, which only a
            pickle can have.
    """

    best: int | None = None
    raw_scores: bool = False
    gathered: bool = False
    empty_for: Sequence[ImageId] = ()


@dataclass
class Converted:
    """What was written: images with proposals, proposals, and images that got an empty entry."""

    images: int = 0
    proposals: int = 0
    emptied: int = 0


def convert_files(sources: Sequence[str], dest: str, how: Conversion) -> Converted:
    """Write one file with the proposals of several, one source and image after the other.

    Args:
        sources: files of either format; one alone is converted.
        dest: ends in ``.pkl`` (boxes) or ``.json``.

    Raises:
        DataError: a source is damaged, an image is in two of them, or all are empty.
        ConfigError: another suffix.
    """
    done = Converted()
    files = [read_proposal_file(source, gathered=how.gathered) for source in sources]
    source_of: dict[str, str] = {}
    with (
        proposal_writer(dest) as writer,
        tqdm(unit="image", desc=Path(dest).name, disable=None, mininterval=0.5) as bar,
    ):
        for file in files:
            for proposals in file:
                _note_source(source_of, proposals.image_id, file.path)
                if how.raw_scores:
                    proposals = replace(proposals, are_logits=dest.endswith(".pkl"))
                proposals = proposals.best(how.best)
                writer.add(proposals)
                done.images += 1
                done.proposals += len(proposals)
                bar.update()
        for proposals in _empty_entries(how.empty_for, source_of):
            writer.add(proposals)
            done.emptied += 1
        if not done.images:  # nothing is written then
            raise DataError(f"no proposals in {', '.join(sources)}")
    return done


def _note_source(source_of: dict[str, str], image_id: ImageId, path: str) -> None:
    """Raise ``DataError`` if the image has come before."""
    before = source_of.get(str(image_id))
    if before is not None:
        where = f"twice in {path}" if before == path else f"both in {before} and in {path}"
        raise DataError(f"image id {short_repr(image_id)} is {where}; leave one of them out")
    source_of[str(image_id)] = path


def _empty_entries(ids: Iterable[ImageId], source_of: dict[str, str]) -> Iterable[ImageProposals]:
    for image_id in ids:
        if str(image_id) not in source_of:
            yield ImageProposals(image_id, np.zeros((0, 4), np.float32), np.zeros(0))
