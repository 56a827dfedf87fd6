"""Files of proposals, of two formats: boxes in a pickle, masks in a JSON file.

* Detectron2's precomputed proposals (:mod:`.proposal_pickle`): boxes with logits. What Fast R-CNN
  trains on.
* COCO's results (:mod:`.proposal_json`): masks, or boxes alone, with probabilities. What DeepMask
  and SharpMask were published with.

Files are written image by image and read that way, the pickle alone as a whole. What is read is
told by content, what is written by the suffix of its name.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ..errors import ConfigError, DataError
from ..weights.file_errors import why_unreadable
from .image_proposals import RLE, ImageId, ImageProposals
from .proposal_json import ResultsWriter, read_results, results_writer
from .proposal_pickle import BoxesWriter, FaultHandler, boxes_writer, read_boxes_pickle

__all__ = [
    "RLE",
    "ImageId",
    "ImageProposals",
    "ProposalFile",
    "boxes_writer",
    "proposal_writer",
    "read_proposal_file",
    "results_writer",
]

WRITERS = {".pkl": boxes_writer, ".json": results_writer}

_ARCHIVES = {b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip", b"BZh": "bzip2", b"\xfd7zXZ": "xz"}


class ProposalFile:
    """Proposals in a file; iterating reads it, each time anew.

    Attributes:
        path: of the file.
        is_json: of COCO's results, else of Detectron2's pickle.
    """

    def __init__(self, path: str | os.PathLike[str], *, gathered: bool = False) -> None:
        """See :func:`read_proposal_file`."""
        self.path = os.fspath(path)
        self.is_json = _is_json(self.path)
        self._gathered = gathered

    def __iter__(self) -> Iterator[ImageProposals]:
        """The images in the file's order.

        Raises:
            DataError: the file is damaged or something in it is wrong.
        """

        def stop(fault: str) -> None:
            raise DataError(f"{self.path}: {fault}")

        return self.images(stop)

    def images(self, on_fault: FaultHandler) -> Iterator[ImageProposals]:
        """The images that can be used; ``on_fault`` is told what is wrong with each of the others.

        Raises:
            DataError: the file itself is damaged.
        """
        if self.is_json:
            return read_results(self.path, on_fault, gathered=self._gathered)
        return read_boxes_pickle(self.path).images(on_fault)


def read_proposal_file(path: str | os.PathLike[str], *, gathered: bool = False) -> ProposalFile:
    """Open a file of proposals: an iterable of :class:`ImageProposals`.

    Nothing but arrays, numbers and text is read from a pickle, so that no file can run code.

    Args:
        path: of either format.
        gathered: also read JSON files in which the proposals of an image do not stand together;
            they are then read as a whole.

    Raises:
        DataError: there is no such file, or it is of another kind.
    """
    return ProposalFile(path, gathered=gathered)


def proposal_writer(
    path: str | os.PathLike[str],
) -> AbstractContextManager[BoxesWriter | ResultsWriter]:
    """A writer of the format that the suffix names: ``.pkl`` for boxes, ``.json`` for masks.

    Its method ``add`` takes one image after the other. The file takes its name when all is written.

    Raises:
        ConfigError: another suffix.
    """
    suffix = Path(path).suffix
    if suffix not in WRITERS:
        raise ConfigError(
            f"{path}: proposals are written as .pkl (boxes) or .json (masks, or boxes without); "
            "give a name that ends so."
        )
    writer: Any = WRITERS[suffix]
    return writer(os.fspath(path))


def _is_json(path: str) -> bool:
    """Tell the format by the first bytes.

    Raises:
        DataError: see :func:`read_proposal_file`.
    """
    try:
        reason = why_unreadable(path)
        with open(path, "rb") as file:
            start = file.read(64)
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror or error}; check the path"
        ) from error
    for magic, archive in _ARCHIVES.items():
        if start.startswith(magic):
            reason = f"it is a {archive} archive; unpack it first"
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n")
    if text.startswith(b"{"):
        reason = (
            "its top level is a JSON object, perhaps COCO annotations; proposals are a JSON list"
        )
    if reason is not None:
        raise DataError(f"{path} is no proposal file: {reason}.")
    return text.startswith(b"[")
