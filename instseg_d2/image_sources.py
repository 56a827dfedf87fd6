"""Images one by one, with names, from whatever a user has: paths, folders, videos, arrays."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from .data.image_reading import read_any_image
from .errors import DataError
from .image_file import ImageFile

IMAGE_SUFFIXES = frozenset(
    (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
)
VIDEO_SUFFIXES = frozenset((".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"))

Image = np.ndarray | str | Path
"""(H, W, 3) uint8 BGR, as OpenCV reads it, or the path of an image file."""


class NamedImage(NamedTuple):
    """One image of a source.

    Attributes:
        name: its path; for an array its number from 0, ``image 5``, or ``clip.mp4, frame 5``.
        image: what it is, not yet read if it is a file.
    """

    name: str
    image: Image

    def read(self) -> np.ndarray:
        """The image, (H, W, 3) uint8 BGR with EXIF orientation applied; an array as it is.

        Raises:
            DataError: the file cannot be read, see :func:`.image_reading.read_any_image`; it is
                neither a path nor an array.
        """
        return self.read_reduced(None).pixels

    def read_reduced(self, max_pixels: int | None) -> ImageFile:
        """As :meth:`read`, and the size of the image before it was reduced.

        Args:
            max_pixels: of the image of a file; an array is not reduced.
        """
        if isinstance(self.image, np.ndarray):
            return ImageFile(self.image, self.image.shape[:2])
        if not isinstance(self.image, str | Path):
            raise DataError(
                f"{self.name} is a {type(self.image).__name__}; the path of an image file or an "
                "array of shape (H, W, 3) is wanted"
            )
        return read_any_image(str(self.image), "BGR", f"image {self.name}", max_pixels)


def named_images(source: Image | Iterable[Image]) -> Generator[NamedImage, None, None]:
    """The images of a source in their order. Nothing is read before it is asked for.

    Args:
        source: the path of an image, of a video or of a folder (its image files, by name); an
            array; or any iterable of paths of images and of arrays, such as the frames of a
            camera.

    Raises:
        DataError: a folder has no images, or a video cannot be opened.
    """
    if isinstance(source, np.ndarray) and source.ndim <= 3:
        return _named([source])
    if not isinstance(source, str | Path):
        return _named(source)
    path = Path(source)
    if path.is_dir():
        return _named(images_in(path))
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return _frames(_opened(path), path)
    return _named([source])


def images_in(folder: str | Path) -> list[Path]:
    """The image files of a folder, by name; not those of folders in it. What cannot be read, such
    as a link to nothing, is among them, to be named when it is its turn.

    Raises:
        DataError: there are none.
    """
    paths = sorted(
        path
        for path in Path(folder).iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir()
    )
    if not paths:
        raise DataError(
            f"the folder {folder} has no images; files with the endings "
            f"{', '.join(sorted(IMAGE_SUFFIXES))} are looked for"
        )
    return paths


def _named(images: Iterable[Image]) -> Generator[NamedImage, None, None]:
    for number, image in enumerate(images):
        is_path = isinstance(image, str | Path)
        yield NamedImage(str(image) if is_path else f"image {number}", image)


def _opened(path: Path) -> cv2.VideoCapture:
    if not path.is_file():
        raise DataError(f"the video {path} does not exist")
    video = cv2.VideoCapture(str(path))
    if not video.isOpened():
        video.release()
        raise DataError(
            f"the video {path} cannot be opened: it is damaged, or of a kind that this OpenCV does "
            "not know"
        )
    return video


def frame_name(path: Path, number: int) -> str:
    """Of a frame of a video, counted from 0."""
    return f"{path}, frame {number}"


def _frames(video: cv2.VideoCapture, path: Path) -> Generator[NamedImage, None, None]:
    try:
        number = 0
        while True:
            is_read, frame = video.read()
            if not is_read:
                return
            yield NamedImage(frame_name(path, number), frame)
            number += 1
    finally:
        video.release()
