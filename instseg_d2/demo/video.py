"""Videos read and written by OpenCV: what a file holds, which codecs work here, cameras."""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..errors import ConfigError, DataError

#: Codecs by name, with the ending of the files that they go into; the first that works is taken.
CODECS = {"mp4v": ".mp4", "avc1": ".mp4", "MJPG": ".avi", "XVID": ".avi", "VP80": ".webm"}

FALLBACK_RATE = 25.0
"""Frames a second where a file or camera does not say."""


@dataclass(frozen=True)
class VideoInfo:
    """What the file says of itself.

    Attributes:
        rate: frames a second.
        frames: how many, often not exact; None if it does not say.
    """

    rate: float
    frames: int | None


def video_info(path: Path) -> VideoInfo:
    """
    Raises:
        DataError: the file cannot be opened, or has no frame.
    """
    with _quiet(), contextlib.closing(_Capture(str(path))) as video:
        if not video.is_open or not video.reads_a_frame():
            raise DataError(
                f"the video {path} cannot be read: it is damaged, or of a kind that this OpenCV "
                "does not know"
            )
        count = video.get(cv2.CAP_PROP_FRAME_COUNT)
        return VideoInfo(
            _rate_or_fallback(video.get(cv2.CAP_PROP_FPS)), int(count) if count > 0 else None
        )


class _Capture:
    """``cv2.VideoCapture`` with a ``close``."""

    def __init__(self, source: str | int) -> None:
        self._video = cv2.VideoCapture(source)

    @property
    def is_open(self) -> bool:
        return bool(self._video.isOpened())

    def reads_a_frame(self) -> bool:
        return bool(self._video.read()[0])

    def read(self) -> np.ndarray | None:
        is_read, frame = self._video.read()
        return frame if is_read else None

    def get(self, key: int) -> float:
        return float(self._video.get(key))

    def close(self) -> None:
        self._video.release()


def _rate_or_fallback(rate: float) -> float:
    return rate if math.isfinite(rate) and 0 < rate <= 1000 else FALLBACK_RATE


class Camera:
    """A camera of this machine; iterating gives its frames until it has none any more.

    Attributes:
        rate: frames a second, as it says.
    """

    def __init__(self, number: int) -> None:
        """
        Raises:
            DataError: there is no such camera.
        """
        with _quiet():
            self._video = _Capture(number)
        if not self._video.is_open:
            self._video.close()
            raise DataError(f"camera {number} cannot be opened: is it there, and free?")
        self.rate = _rate_or_fallback(self._video.get(cv2.CAP_PROP_FPS))

    def __iter__(self) -> Generator[np.ndarray, None, None]:
        try:
            while (frame := self._video.read()) is not None:
                yield frame
        finally:
            self._video.close()


def working_codec(wanted: str | None = None) -> str:
    """A codec that this OpenCV can write a video with, found by writing one.

    Args:
        wanted: one of :data:`CODECS`; None for the first of them that works.

    Raises:
        ConfigError: it cannot; the message names those that work.
    """
    if wanted is not None and wanted not in CODECS:
        raise ConfigError(f"--codec {wanted} is unknown; known are {', '.join(CODECS)}")
    for codec in CODECS if wanted is None else (wanted,):
        if _can_write(codec):
            return codec
    working = [codec for codec in CODECS if codec != wanted and _can_write(codec)]
    if not working:
        raise ConfigError(
            "this OpenCV can write no video; install another (pip install opencv-python), or write "
            "JSON only (--write json)"
        )
    raise ConfigError(
        f"this OpenCV cannot write videos with the codec {wanted}; it can with {', '.join(working)}"
    )


def _can_write(codec: str) -> bool:
    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = os.path.join(folder, f"try{CODECS[codec]}")
        writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*codec), 25, (64, 48))
        is_open = writer.isOpened()
        for level in range(3):
            writer.write(np.full((48, 64, 3), 80 * level, np.uint8))
        writer.release()
        return bool(is_open) and os.path.exists(path) and os.path.getsize(path) > 0


class VideoOutput:
    """Context manager that writes a video; it takes its name when it ends without an error.

    Attributes:
        frames: written so far.
    """

    def __init__(
        self,
        path: Path,
        codec: str,
        rate: float,
        *,
        is_live: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            path: its folder exists.
            codec: of :data:`CODECS`.
            rate: frames a second.
            is_live: a picture stays until the next one comes, so that the video is as long as its
                making took, however few pictures a second come.
            clock: seconds, for ``is_live``.
        """
        self.path = path
        self.frames = 0
        self._codec, self._rate, self._is_live, self._clock = codec, rate, is_live, clock
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        self._start = 0.0
        self._temporary = path.with_name(f"{path.stem}.{secrets.token_hex(8)}.tmp{path.suffix}")

    def __enter__(self) -> VideoOutput:
        return self

    def write(self, picture: np.ndarray) -> None:
        """Add a picture, uint8 BGR (H, W, 3); all become as large as the first.

        Raises:
            DataError: the file cannot be written.
        """
        if self._writer is None:
            height, width = picture.shape[:2]
            self._size = width + width % 2, height + height % 2  # most codecs need even sides
            with _quiet():
                self._writer = cv2.VideoWriter(
                    str(self._temporary),
                    cv2.VideoWriter.fourcc(*self._codec),
                    self._rate,
                    self._size,
                )
            if not self._writer.isOpened():
                raise DataError(
                    f"the video {self.path} cannot be written at {width} x {height} pixels with "
                    f"the codec {self._codec}"
                )
            self._start = self._clock()
        if picture.shape[1::-1] != self._size:
            picture = cv2.resize(picture, self._size)
        times = 1
        if self._is_live:
            due = int((self._clock() - self._start) * self._rate) + 1
            times = max(0, due - self.frames)
        for _ in range(times):
            self._writer.write(picture)
        self.frames += times

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._writer is not None:
            self._writer.release()
        if kind is None and self.frames:
            os.replace(self._temporary, self.path)
        else:
            self._temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what OpenCV says on stderr of codecs and cameras that do not work: we say it."""
    sys.stderr.flush()
    saved = os.dup(2)
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


@contextlib.contextmanager
def noting_ctrl_c(is_wanted: bool) -> Iterator[threading.Event]:
    """The first Ctrl-C sets the event, so that nothing is half written; the next is as ever."""
    is_pressed = threading.Event()
    if not is_wanted or threading.current_thread() is not threading.main_thread():
        yield is_pressed
        return
    before = signal.getsignal(signal.SIGINT)

    def note(*_: Any) -> None:
        is_pressed.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield is_pressed
    finally:
        signal.signal(signal.SIGINT, before)
