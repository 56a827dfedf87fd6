"""The image files: whole, readable, and of the size that the JSON says."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from typing import NamedTuple

from PIL import Image
from tqdm import tqdm

from ..prefetch import prefetch
from .entries import ImageEntry
from .problems import Problems

EXIF_ORIENTATION = 0x0112

SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations that swap the sides."""

DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
"""Pillow's names for more than 8 bits a channel."""


class FileFacts(NamedTuple):
    """What an image file is like.

    Attributes:
        size: (height, width) as stored, before an EXIF orientation is applied; None if the file
            cannot be read.
        orientation: of EXIF, 1 to 8; 1 is upright.
        mode: Pillow's name of the pixels' format.
        frames: number of images in the file.
        problem: a code of :data:`.codes.KINDS` if there is no usable image, else None.
        reason: what the problem is.
    """

    size: tuple[int, int] | None = None
    orientation: int = 1
    mode: str = ""
    frames: int = 1
    problem: str | None = None
    reason: str = ""

    @property
    def upright_size(self) -> tuple[int, int] | None:
        """(height, width) as Detectron2's reader gives them."""
        if self.size is None or self.orientation not in SIDEWAYS:
            return self.size
        return self.size[1], self.size[0]


def resolve(image_root: str, file: str) -> str | None:
    """The path of an image; None if it leads out of the folder. Links in the folder are followed,
    because whoever made the folder made them."""
    root = os.path.abspath(image_root)
    path = os.path.abspath(os.path.join(root, file))
    return path if path.startswith(os.path.join(root, "")) else None


def inspect_file(path: str) -> FileFacts:
    """Decode an image file as a whole, as training will."""
    try:
        if not os.path.isfile(path):
            return FileFacts(problem="image-missing", reason="there is no such file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata and large images, which still load
            with Image.open(path) as image:
                size, mode = (image.height, image.width), image.mode
                frames = getattr(image, "n_frames", 1)
                image.load()  # Pillow turns TIFF files upright and removes their tag
                orientation = image.getexif().get(EXIF_ORIENTATION, 1)
    except Exception as error:  # Pillow's decoders raise errors of many types
        return FileFacts(problem="image-unreadable", reason=f"{type(error).__name__}: {error}")
    if type(orientation) is not int or not 1 <= orientation <= 8:
        orientation = 1  # Detectron2's reader takes it so, too
    return FileFacts(size, orientation, mode, frames)


def check_files(
    images: list[ImageEntry], image_root: str, problems: Problems, *, num_workers: int
) -> None:
    """Read all image files, in threads, and report their problems.

    Args:
        images: those without a file name are passed over.
        image_root: the folder of the files.
        num_workers: threads.
    """
    local: list[tuple[ImageEntry, str]] = []
    for image in images:
        if image.file is None:
            continue
        if "://" in image.file:
            problems.add("image-remote", "it was not looked at", image.place())
            continue
        path = resolve(image_root, image.file)
        if path is None:
            problems.add("path-leaves-folder", f"the folder is {image_root}", image.place())
        else:
            local.append((image, path))

    def inspect(item: tuple[ImageEntry, str]) -> tuple[ImageEntry, FileFacts]:
        return item[0], inspect_file(item[1])

    found: Iterator[tuple[ImageEntry, FileFacts]] = prefetch(
        iter(local), inspect, num_workers=num_workers, ahead=4 * num_workers + 1
    )
    for image, facts in tqdm(found, "reading images", len(local), unit="image", delay=1):
        _report(image, facts, problems)


def _report(image: ImageEntry, facts: FileFacts, problems: Problems) -> None:
    place = image.place()
    if facts.problem is not None:
        reason = facts.reason
        if facts.problem == "image-missing" and "\\" in (image.file or ""):
            reason += "; the name has backslashes, write '/'"
        problems.add(facts.problem, reason, place)
        return
    if facts.mode in DEEP_MODES:
        problems.add("image-deep", f"its mode is {facts.mode}; convert it to 8 bits", place)
    if facts.frames > 1:
        problems.add("image-frames", f"{facts.frames} frames", place)
    _report_size(image, facts, problems)


def _report_size(image: ImageEntry, facts: FileFacts, problems: Problems) -> None:
    place, stored, upright = image.place(), facts.size, facts.upright_size
    assert stored is not None
    assert upright is not None
    exif = f"EXIF orientation {facts.orientation}"
    if image.size is not None and image.size != upright:
        says = f"the JSON says {image.width} x {image.height}"
        if image.size == stored:
            problems.add(
                "image-exif-swapped",
                f"{exif}: read as {upright[1]} x {upright[0]} pixels, {says}. Rotate the file and "
                "remove its EXIF orientation, or correct the JSON",
                place,
            )
        else:
            swapped = " (the sides are swapped)" if image.size == upright[::-1] else ""
            text = f"{upright[1]} x {upright[0]} pixels, {says}{swapped}"
            problems.add("image-size-mismatch", text, place)
    elif facts.orientation in SIDEWAYS and stored != upright:
        problems.add("image-exif-rotated", exif, place)
    elif facts.orientation != 1:
        problems.add("image-exif-unclear", exif, place)
