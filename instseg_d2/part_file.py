"""What a long run has finished, in a file that only grows, so that another run can go on from it.

The first line says what the results depend on (:class:`.run_settings.Settings`); each further one
is ``[key, value]`` in JSON. A killed process leaves whole lines and at most one torn one, which
counts as absent, as does everything behind a damaged one.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from .errors import ConfigError
from .run_settings import Settings

SYNC_SECONDS = 5.0
"""What a power cut loses at most; a killed process loses nothing that was added."""

Key = int | str

Stamp = list[Any]
"""Path, bytes and time of change of a file: another stamp, another content."""


class PartFile:
    """Context manager over a part file that one process adds to.

    It stays when the context ends; :meth:`remove` it when its results are where they belong.

    Attributes:
        path: of the file.
        differences: why the entries that an earlier run had left do not count: what they depend
            on, then and now, in words. Empty if they do, or if there were none.
    """

    def __init__(self, path: Path, settings: Settings) -> None:
        """
        Args:
            path: its folder exists. A file of the same settings is gone on with; another one is
                begun anew.
            settings: what the entries depend on.

        Raises:
            ConfigError: another process is writing the file.
        """
        self.path = path
        self.differences: list[str] = []
        self._file = open(path, "a+b", buffering=0)  # noqa: SIM115 - closed by close()
        self._places: dict[Key, tuple[int, int]] = {}
        self._last_sync = time.monotonic()
        _OPEN.add(self)
        try:
            self._lock()
            with open(path, "rb") as reader:
                self._go_on(settings, reader)
        except BaseException:
            self._file.close()
            raise

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"another run is writing {self.path}: wait until it ends, or give another folder"
            ) from None
        except OSError:
            pass  # some network drives know no locks

    def _go_on(self, settings: Settings, reader: IO[bytes]) -> None:
        settings = Settings(json.loads(json.dumps(settings.content)))  # as they are read
        end = 0
        earlier, entries = _scan(reader)
        if earlier is not None:
            self.differences = earlier.differences(settings)
            if not self.differences:
                end = reader.tell()
                for key, place, length in entries:
                    self._places[key] = place, length
                    end = place + length
        self._file.truncate(end)
        if end == 0:
            self._write({"settings": settings.content})

    def __contains__(self, key: Key) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, key: Key) -> Any:
        place, length = self._places[key]
        return json.loads(os.pread(self._file.fileno(), length, place))[1]

    def add(self, key: Key, value: Any) -> None:
        """Keep ``value``, which can be written as JSON; one that the key had before counts no more.

        Raises:
            OSError: the disk is full; what was added before stays.
        """
        self._places[key] = self._write([key, value])
        if time.monotonic() - self._last_sync >= SYNC_SECONDS:
            os.fsync(self._file.fileno())
            self._last_sync = time.monotonic()

    def _write(self, content: Any) -> tuple[int, int]:
        """Returns where it is and how long."""
        line = json.dumps(content, separators=(",", ":")).encode() + b"\n"
        place = self._file.seek(0, os.SEEK_END)
        written = 0
        while written < len(line):  # a disk that fills up takes a piece first
            written += self._file.write(line[written:])
        return place, len(line)

    def close(self) -> None:
        """Close the file, which stays."""
        if not self._file.closed:
            with contextlib.suppress(OSError):  # as in _lock
                # Closing alone leaves the lock to a child that has not come to close its own yet.
                fcntl.flock(self._file, fcntl.LOCK_UN)
            self._file.close()

    def remove(self) -> None:
        """Close and remove the file."""
        self.close()
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> PartFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_OPEN: weakref.WeakSet[PartFile] = weakref.WeakSet()


def _close_in_child() -> None:
    """The workers of a data loader would keep the lock of a process that has ended."""
    for part in list(_OPEN):
        part._file.close()  # not close(), which would take the lock from the parent


os.register_at_fork(after_in_child=_close_in_child)


def entries_of(path: Path, settings: Settings) -> Iterator[tuple[Key, Any]]:
    """The entries of a file of these settings; none if it has others, is damaged or absent."""
    settings = Settings(json.loads(json.dumps(settings.content)))  # as they are read
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        earlier, places = _scan(file)
        if earlier is None or earlier.differences(settings):
            return
        for key, place, length in list(places):
            yield key, json.loads(os.pread(file.fileno(), length, place))[1]


def file_stamp(path: str | Path) -> Stamp:
    """Of a file that is not there, or not on a disk, the path alone."""
    try:
        status = os.stat(path)
    except OSError:
        return [str(path)]
    return [str(path), status.st_size, status.st_mtime_ns]


def _scan(file: IO[bytes]) -> tuple[Settings | None, Iterator[tuple[Key, int, int]]]:
    """The settings, None if the first line is damaged; and key, place and length of the entries
    before the first damaged line."""
    head = _parsed(file.readline())
    if not isinstance(head, dict) or not isinstance(head.get("settings"), dict):
        return None, iter(())
    return Settings(head["settings"]), _entries(file)


def _entries(file: IO[bytes]) -> Iterator[tuple[Key, int, int]]:
    place = file.tell()
    while True:
        line = file.readline()
        entry = _parsed(line)
        if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], Key)):
            return
        yield entry[0], place, len(line)
        place += len(line)


def _parsed(line: bytes) -> Any:
    """None for a line that is damaged."""
    if not line.endswith(b"\n"):
        return None
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
