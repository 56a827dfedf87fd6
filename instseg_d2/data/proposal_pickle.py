"""Detectron2's file of precomputed proposals: boxes and scores in a pickle.

A dict of ``ids`` (of images), ``boxes`` (for each image float32 (n, 4)), ``objectness_logits``
(float32 (n,)) and ``bbox_mode`` (of ``detectron2.structures.BoxMode``; absent: XYXY_ABS). The first
Detectron called two of them ``indexes`` and ``scores``.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from detectron2.structures import BoxMode

from ..atomic_file import written_whole
from ..errors import DataError, short_repr
from ..weights.safe_pickle import ArrayUnpickler, Function, RefusedError
from .image_proposals import ImageId, ImageProposals, best_first, values_problem

OLD_KEYS = {"indexes": "ids", "scores": "objectness_logits"}
LISTS = ("ids", "boxes", "objectness_logits")

FaultHandler = Callable[[str], None]
"""Takes what is wrong with an image, and may raise; the image is passed over."""


@dataclass(frozen=True)
class BoxesContent:
    """What such a file holds, as it is there: three lists of one length."""

    path: str
    ids: list[Any]
    boxes: list[Any]
    scores: list[Any]
    bbox_mode: BoxMode

    def images(self, on_fault: FaultHandler) -> Iterator[ImageProposals]:
        """The images in the file's order."""
        for number, (image_id, boxes, scores) in enumerate(
            zip(self.ids, self.boxes, self.scores, strict=True)
        ):
            image_id = image_id.item() if isinstance(image_id, np.generic) else image_id
            if type(image_id) not in (int, str):
                on_fault(f"entry {number}: {short_repr(image_id)} is no image id")
                continue
            if self.bbox_mode == BoxMode.XYWH_ABS:
                boxes = _with_far_corners(boxes)
            problem = values_problem(boxes, scores)
            if problem is not None:
                on_fault(f"image id {short_repr(image_id)}: {problem}")
                continue
            # Without the class that unpickling gives them.
            boxes, scores = np.asarray(boxes), np.asarray(scores)
            yield best_first(image_id, boxes, scores, are_logits=True)


def _with_far_corners(boxes: Any) -> Any:
    """XYWH -> XYXY; what is no array of boxes stays what it is."""
    is_array = isinstance(boxes, np.ndarray) and boxes.dtype.kind in "fiu"
    if not is_array or boxes.ndim != 2 or boxes.shape[1] != 4:
        return boxes
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def read_boxes_pickle(path: str) -> BoxesContent:
    """Read the whole file; it can run no code.

    Raises:
        DataError: the file is damaged, holds other things, or its lists differ in length.
    """
    content = _unpickle(path)
    if not isinstance(content, dict):
        raise DataError(f"{path} is no proposal file: it holds a {type(content).__name__}.")
    for old, new in OLD_KEYS.items():
        if old in content and new not in content:
            content[new] = content.pop(old)
    for key in LISTS:
        value = content.get(key)
        if isinstance(value, np.ndarray):
            content[key] = list(value)
        elif not isinstance(value, (list, tuple)):
            known = ", ".join(short_repr(name) for name in list(content)[:6])
            what = "has no list" if key not in content else f"has a {type(value).__name__} for"
            raise DataError(
                f"{path} is no proposal file: it {what} '{key}'. Its entries are {known}."
            )
    lengths = {key: len(content[key]) for key in LISTS}
    if len(set(lengths.values())) > 1:
        described = ", ".join(f"{length} {key}" for key, length in lengths.items())
        raise DataError(
            f"{path}: its lists differ in length: {described}. It was written wrongly: make it "
            "anew, with one entry for each image in all three."
        )
    mode = _box_mode(path, content.get("bbox_mode", BoxMode.XYXY_ABS))
    ids, boxes, scores = (list(content[key]) for key in LISTS)
    return BoxesContent(path, ids, boxes, scores, mode)


def _box_mode(path: str, value: Any) -> BoxMode:
    try:
        mode = BoxMode(int(value))
    except (OverflowError, TypeError, ValueError):
        mode = None
    if mode not in (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS):
        name = short_repr(value) if mode is None else mode.name
        raise DataError(
            f"{path}: its bbox_mode is {name}; boxes of proposals are XYXY_ABS "
            f"({int(BoxMode.XYXY_ABS)}) or XYWH_ABS ({int(BoxMode.XYWH_ABS)}), in pixels"
        )
    return mode


class _BoxesUnpickler(ArrayUnpickler):
    """Also reads a ``BoxMode``, which becomes its number."""

    def find_class(self, module: str, name: str) -> Any:
        if name == "BoxMode" and module.startswith("detectron2.structures"):
            return _NUMBER
        return super().find_class(module, name)


_NUMBER = Function(int)
"""Stands in for ``BoxMode``."""


def _unpickle(path: str) -> Any:
    with open(path, "rb") as file:
        try:
            return _BoxesUnpickler(file).load()
        except RefusedError as error:
            raise DataError(
                f"{path} is refused: it holds '{error.what}'. Proposal files hold arrays, numbers "
                "and lists only; other things can run code of the file's author."
            ) from error
        except Exception as error:  # damaged pickles raise errors of many types
            raise DataError(
                f"{path} cannot be read as a pickle: it is damaged or was copied only in part "
                f"({type(error).__name__}: {error}). Fetch or write it again."
            ) from error


# ------------------------------------------------------------------------------------- writing


class BoxesWriter:
    """Writes such a file image by image; see :func:`boxes_writer`."""

    def __init__(self, file: IO[bytes], scores: IO[bytes]) -> None:
        self._file = file
        self._scores = scores
        self._ids: list[ImageId] = []

    def add(self, proposals: ImageProposals) -> None:
        """Append an image.

        Raises:
            DataError: see :attr:`ImageProposals.logits`.
        """
        self._ids.append(proposals.image_id)
        self._scores.write(_pickled(proposals.logits.astype(np.float32)))
        self._file.write(_pickled(np.ascontiguousarray(proposals.boxes, np.float32)))


@contextlib.contextmanager
def boxes_writer(path: str) -> Iterator[BoxesWriter]:
    """A writer of the file ``path``, which appears whole at the end or not at all.

    Memory does not grow with the number of proposals. For that, the pickle is put together from its
    opcodes: those for the containers are written here, those for the arrays come from ``pickle``.
    """
    # A file beside the result, where there is room for it; it has no name, and so never stays.
    with (
        written_whole(path) as file,
        tempfile.TemporaryFile(dir=os.path.dirname(os.path.abspath(path))) as scores,
    ):
        file.write(pickle.PROTO + b"\x03" + pickle.EMPTY_DICT + pickle.MARK)
        file.write(_pickled("boxes") + pickle.EMPTY_LIST + pickle.MARK)
        writer = BoxesWriter(file, scores)
        yield writer
        file.write(pickle.APPENDS)
        file.write(_pickled("objectness_logits") + pickle.EMPTY_LIST + pickle.MARK)
        scores.seek(0)
        shutil.copyfileobj(scores, file)
        file.write(pickle.APPENDS)
        file.write(_pickled("ids") + _pickled(writer._ids))
        file.write(_pickled("bbox_mode") + _pickled(int(BoxMode.XYXY_ABS)))
        file.write(pickle.SETITEMS + pickle.STOP)


def _pickled(value: Any) -> bytes:
    """The opcodes that put a value on the stack.

    Protocol 3 has bytes and no frames. The value's memo is its own: each begins anew at 0, and
    refers to nothing before it.
    """
    return pickle.dumps(value, protocol=3)[2:-1]  # without the protocol's mark and the stop
