"""Reading a JSON list of any length, element by element, in little memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, TextIO

CHUNK = 1 << 20
"""Characters read at a time."""

MAX_ELEMENT = 1 << 26
"""Characters of one element; damaged text is not read further in search of its end."""

_WHITESPACE = " \t\n\r"


def iter_json_list(file: TextIO, chunk: int = CHUNK) -> Iterator[Any]:
    """The elements of a JSON list, as ``json.load`` would give them.

    Args:
        file: text whose top level is a list.
        chunk: characters read at a time.

    Raises:
        ValueError: the text is no JSON list or ends too early; its message says at which character.
            The elements before that place have been given.
    """
    text = _Text(file, chunk)
    if text.next_mark() != "[":
        raise text.error("the top level must be a list, which begins with '['")
    text.position += 1
    if text.next_mark() == "]":
        text.position += 1
    else:
        mark = ","
        while mark == ",":
            yield text.next_element()
            mark = text.next_mark()
            text.position += 1
    if text.next_mark():
        raise text.error("text follows the end of the list")


class _Text:
    """The part of a file that is in memory.

    Attributes:
        position: of the next character in that part.
    """

    def __init__(self, file: TextIO, chunk: int) -> None:
        self.position = 0
        self._file = file
        self._chunk = chunk
        self._part = ""
        self._passed = 0  # characters before the part
        self._decode = json.JSONDecoder().raw_decode

    def next_mark(self) -> str:
        """The next character that is no whitespace, at which the position then is; "" at the
        end."""
        while True:
            self.position = self._skip_whitespace(self.position)
            if self.position < len(self._part):
                return self._part[self.position]
            if not self._read_on():
                return ""

    def next_element(self) -> Any:
        """An element of a list, which a comma or the list's end follows.

        Raises:
            ValueError: see :func:`iter_json_list`.
        """
        self.next_mark()
        while True:
            try:
                element, end = self._decode(self._part, self.position)
            except json.JSONDecodeError as error:
                problem = self.error(error.msg, error.pos)
            except RecursionError:
                raise self.error("the values are nested too deeply") from None
            else:
                end = self._skip_whitespace(end)
                # At the end of the part, 12 may be the beginning of 123 and so may 1.5 of 1.5e3.
                if end < len(self._part) and self._part[end] in ",]":
                    self.position = end
                    return element
                problem = self.error("a comma or the end of the list is missing", end)
            # What seems wrong may only be cut off.
            if len(self._part) - self.position > MAX_ELEMENT or not self._read_on():
                raise problem

    def error(self, problem: str, position: int | None = None) -> ValueError:
        """An error that says where."""
        place = self._passed + (self.position if position is None else position)
        return ValueError(f"{problem} (at character {place})")

    def _skip_whitespace(self, position: int) -> int:
        part, length = self._part, len(self._part)
        while position < length and part[position] in _WHITESPACE:
            position += 1
        return position

    def _read_on(self) -> bool:
        """Read the next part, at least as much as is waiting, so that no element is decoded many
        times; False at the end of the file."""
        waiting = self._part[self.position :]
        more = self._file.read(max(self._chunk, len(waiting)))
        self._passed += self.position
        self._part = waiting + more
        self.position = 0
        return bool(more)
