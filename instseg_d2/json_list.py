"""JSON lists that are written part by part, so that their text need not fit into memory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import IO, Any


class JsonList:
    """A JSON list that grows in a file, from where the file is."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._separator = b"["

    def add(self, entries: Sequence[Any]) -> None:
        """Write some more entries."""
        if entries:
            self._file.write(self._separator + json.dumps(entries)[1:-1].encode())
            self._separator = b", "

    def close(self) -> None:
        """Write the end; the file stays open."""
        self._file.write(b"[]" if self._separator == b"[" else b"]")
