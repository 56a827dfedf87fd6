"""Detections as two JSON files, written image by image: results, and what they are results of."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from detectron2.structures import Instances

from ..atomic_file import written_whole
from ..json_list import JsonList
from .detections import Size, enlarged, to_coco_results

RESULTS_FILE = "predictions.json"
IMAGES_FILE = "images.json"


class ResultFiles:
    """Context manager that writes both files; they take their names when it ends without an error.

    * ``predictions.json``: results in COCO's format, masks as run-length codes, at the images' own
      sizes.
    * ``images.json``: ``images`` (``id``, ``file_name``, ``height``, ``width``), ``categories`` and
      empty ``annotations``: what COCO's tools read results beside.

    Attributes:
        count: detections so far.
    """

    def __init__(
        self, folder: Path, class_names: Sequence[str], category_ids: Sequence[int] | None
    ) -> None:
        """
        Args:
            folder: it exists.
            class_names: of every class; empty for models that know none.
            category_ids: by class; None: the classes are the ids.
        """
        self.folder = folder
        self.count = 0
        self._category_ids = category_ids
        ids = category_ids or range(len(class_names))
        self._categories = [
            {"id": number, "name": name} for number, name in zip(ids, class_names, strict=False)
        ] or [{"id": 1, "name": "object"}]
        self._stack = contextlib.ExitStack()
        self._next_id = 1

    def __enter__(self) -> ResultFiles:
        with contextlib.ExitStack() as stack:
            results = stack.enter_context(written_whole(str(self.folder / RESULTS_FILE)))
            images = stack.enter_context(written_whole(str(self.folder / IMAGES_FILE)))
            self._results, self._images = JsonList(results), JsonList(images)
            head = json.dumps({"annotations": [], "categories": self._categories})
            images.write(head[:-1].encode() + b', "images": ')
            self._images_file = images
            self._stack = stack.pop_all()
        return self

    def add(self, name: str, found: Instances, full_size: Size) -> None:
        """Of one image.

        Args:
            name: of the image.
            found: its detections, maybe of a reduced image.
            full_size: of the image.
        """
        height, width = full_size
        self._images.add(
            [{"id": self._next_id, "file_name": name, "height": height, "width": width}]
        )
        results = to_coco_results(enlarged(found, full_size), self._next_id, self._category_ids)
        self._results.add(results)
        self.count += len(results)
        self._next_id += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            try:
                self._results.close()
                self._images.close()
                self._images_file.write(b"}")
            except BaseException as failure:
                self._stack.__exit__(type(failure), failure, failure.__traceback__)
                raise
        self._stack.__exit__(kind, error, traceback)
