"""Files for the cases: a small data set that is right but for one thing, and other files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tests.coco_sample import coco

Write = Callable[[Path], object]


def text(name: str, content: str) -> Write:
    """Writes a text file."""
    return raw(name, content.encode())


def raw(name: str, content: bytes) -> Write:
    """Writes a file of these bytes."""

    def write(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)

    return write


def absent(name: str) -> Write:
    """Moves a file or folder away."""
    return lambda folder: (folder / name).rename(folder / f"{Path(name).name}.away")


def both(*writers: Write) -> Write:
    """Writes all of them."""

    def write(folder: Path) -> None:
        for writer in writers:
            writer(folder)

    return write


def data_set(change: Callable[[dict[str, Any]], object] = lambda content: None) -> Write:
    """Writes ``annotations.json``, changed, and its images, ``images/a.png`` and ``b.png``."""

    def write(folder: Path) -> None:
        content = coco()
        change(content)
        (folder / "annotations.json").write_text(json.dumps(content))
        (folder / "images").mkdir()
        for name in ("a.png", "b.png"):
            picture(f"images/{name}")(folder)

    return write


def annotation(**fields: Any) -> Write:
    """As :func:`data_set`, with other fields in the first annotation (id 101)."""
    return data_set(lambda content: content["annotations"][0].update(fields))


def picture(name: str, height: int = 10, width: int = 12) -> Write:
    """Writes a grey image."""
    return lambda folder: cv2.imwrite(
        str(folder / name), np.full((height, width, 3), 120, np.uint8)
    )
