"""Proposals as results in COCO's format: a JSON list with an object for each proposal.

``image_id``; ``category_id``, which is always 1; ``segmentation``, a compressed run-length code
{"size": [height, width], "counts": text}, absent where there are boxes only; ``bbox``, [x, y,
width, height] in pixels; ``score``, a probability. All proposals of an image stand together. An
image without proposals does not occur.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import IO, Any

import numpy as np
import pycocotools.mask as mask_util

from ..atomic_file import written_whole
from ..errors import DataError, short_repr
from .image_proposals import ImageId, ImageProposals, best_first, values_problem
from .json_stream import iter_json_list
from .proposal_pickle import FaultHandler
from .rle_batch import rles_problem

Entry = dict[str, Any]

HEAD, FOOT = b"[", b"\n]\n"
"""What is around the entries in files written here."""


# ------------------------------------------------------------------------------------- reading


def read_results(
    path: str, on_fault: FaultHandler, *, gathered: bool = False
) -> Iterator[ImageProposals]:
    """The images of a file, one after the other, in little memory.

    Args:
        path: of a JSON file.
        on_fault: called for each image that cannot be used.
        gathered: gather the proposals of images that do not stand together, which takes the whole
            file into memory.

    Raises:
        DataError: no such list, a file that ends too early, or proposals of an image in several
            places.
    """
    groups = _groups(path, _entries(path))
    for image_id, entries in _gathered(groups) if gathered else _together(path, groups):
        try:
            yield _proposals(image_id, entries)
        except _Unusable as error:
            on_fault(f"image id {short_repr(image_id)}: {error}")


def _entries(path: str) -> Iterator[Any]:
    try:
        with open(path, encoding="utf-8-sig") as file:
            yield from iter_json_list(file)
    except ValueError as error:
        raise DataError(
            f"{path} cannot be read as a JSON list of proposals: {error}. It is damaged, of "
            "another kind, or was copied only in part: fetch or write it again."
        ) from error


def _groups(path: str, entries: Iterable[Any]) -> Iterator[tuple[ImageId, list[Entry]]]:
    """Neighbours with the same image id."""
    number = -1

    def image_id(entry: Any) -> ImageId:
        nonlocal number
        number += 1
        value: Any = entry.get("image_id") if isinstance(entry, dict) else None
        if isinstance(value, float) and value.is_integer():  # as Lua writes numbers
            return int(value)
        if isinstance(value, int | str) and not isinstance(value, bool):
            return value
        raise DataError(
            f"{path}: entry {number} has no usable image_id: {short_repr(entry)}. Expected an "
            'object {"image_id": ..., "category_id": 1, "bbox": ..., "score": ...} for each '
            "proposal."
        )

    for key, group in groupby(entries, image_id):
        yield key, list(group)


def _together(
    path: str, groups: Iterable[tuple[ImageId, list[Entry]]]
) -> Iterator[tuple[ImageId, list[Entry]]]:
    """The groups themselves, as long as each image has one."""
    seen = set()
    for image_id, entries in groups:
        if image_id in seen:
            raise DataError(
                f"{path}: the proposals of image id {short_repr(image_id)} do not stand together. "
                "Sort the file first: tools/proposal_files.py convert --gather FILE SORTED_FILE"
            )
        seen.add(image_id)
        yield image_id, entries


def _gathered(
    groups: Iterable[tuple[ImageId, list[Entry]]],
) -> Iterable[tuple[ImageId, list[Entry]]]:
    images: dict[ImageId, list[Entry]] = {}
    for image_id, entries in groups:
        images.setdefault(image_id, []).extend(entries)
    return images.items()


class _Unusable(Exception):
    """What is wrong with the proposals of an image."""


def _proposals(image_id: ImageId, entries: list[Entry]) -> ImageProposals:
    scores = _numbers(entries, "score", ())
    rles = _rles(entries)
    if "bbox" in entries[0]:
        boxes = _numbers(entries, "bbox", (4,))
    elif rles is not None:
        boxes = np.asarray(mask_util.toBbox(rles), np.float64).reshape(-1, 4)
    else:
        raise _Unusable("proposal 0 has neither 'bbox' nor 'segmentation'")
    if np.isfinite(boxes).all() and (boxes[:, 2:] < 0).any():
        raise _Unusable("a 'bbox' has a negative width or height; it is [x, y, width, height]")
    boxes = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1).astype(np.float32)
    problem = values_problem(boxes, scores)
    if problem is not None:
        raise _Unusable(problem)
    return best_first(image_id, boxes, scores, rles, are_logits=False)


def _numbers(entries: list[Entry], key: str, shape: tuple[int, ...]) -> np.ndarray:
    """One value or list of numbers of each entry, float64."""
    values = [entry.get(key) for entry in entries]
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        array = np.array(values)
        if array.dtype.kind in "fiu" and array.shape == (len(entries), *shape):
            return array.astype(np.float64)
    good = (f"{shape[0]} numbers" if shape else "a number") + f" as '{key}'"
    for row, value in enumerate(values):
        parts = value if shape and isinstance(value, list) else [value]
        if len(parts) != int(np.prod(shape)) or any(type(p) not in (int, float) for p in parts):
            raise _Unusable(f"proposal {row} has {short_repr(value)}; expected {good}")
    raise _Unusable(f"a proposal has a number too large; expected {good}")


def _rles(entries: list[Entry]) -> list[Any] | None:
    """The masks of the entries; None where there are none."""
    masks = [entry.get("segmentation") for entry in entries]
    absent = [row for row, mask in enumerate(masks) if mask is None]
    if len(absent) == len(masks):
        return None
    if absent:
        raise _Unusable(f"proposal {absent[0]} has no 'segmentation', but others have")
    problem = rles_problem(masks)
    if problem is not None:
        raise _Unusable(problem)
    return masks


# ------------------------------------------------------------------------------------- writing


class ResultsWriter:
    """Writes such a file image by image; see :func:`results_writer`."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._is_empty = True

    def add(self, proposals: ImageProposals) -> None:
        """Append an image; one without proposals leaves no trace."""
        entries = [json.dumps(entry, separators=(",", ":")) for entry in _entries_of(proposals)]
        self._append(",\n".join(entries).encode())

    def add_file(self, path: str) -> None:
        """Append the entries of a file that was written here, as they are."""
        with open(path, "rb") as file:
            content = file.read()
        if not content.startswith(HEAD) or not content.endswith(FOOT):
            raise DataError(f"{path} is damaged: it does not end as it should. Make it anew.")
        self._append(content[len(HEAD) : -len(FOOT)].lstrip(b"\n"))

    def _append(self, entries: bytes) -> None:
        if entries:
            self._file.write(b"\n" if self._is_empty else b",\n")
            self._file.write(entries)
            self._is_empty = False


@contextlib.contextmanager
def results_writer(path: str) -> Iterator[ResultsWriter]:
    """A writer of the file ``path``, which appears whole at the end or not at all."""
    with written_whole(path) as file:
        file.write(HEAD)
        yield ResultsWriter(file)
        file.write(FOOT)


def _entries_of(proposals: ImageProposals) -> Iterator[Entry]:
    # The widths in double precision: added to x they give the very same float32.
    boxes = proposals.boxes.astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    probabilities = proposals.probabilities.tolist()
    for row, (box, score) in enumerate(zip(boxes.tolist(), probabilities, strict=True)):
        entry: Entry = {"image_id": proposals.image_id, "category_id": 1}
        if proposals.rles is not None:
            entry["segmentation"] = proposals.rles[row]
        yield {**entry, "bbox": box, "score": score}
