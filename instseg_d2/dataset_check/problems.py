"""The problems that were found."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from .codes import KINDS, SEVERITIES, Severity


class Problem(NamedTuple):
    """One problem.

    Attributes:
        code: a key of :data:`.codes.KINDS`.
        text: what is wrong, with the values.
        file: of the image, as the JSON has it; None if it is no matter of one image.
        image_id, annotation_id: as the JSON has them; None if unknown or not concerned.
    """

    code: str
    text: str
    file: str | None = None
    image_id: Any = None
    annotation_id: Any = None

    @property
    def severity(self) -> Severity:
        return KINDS[self.code].severity

    def place(self) -> str:
        """Where it is, for people: ``annotation 7, image 3 (a.jpg)``."""
        parts = []
        if self.annotation_id is not None:
            parts.append(f"annotation {self.annotation_id}")
        if self.image_id is not None:
            parts.append(f"image {self.image_id}" + (f" ({self.file})" if self.file else ""))
        elif self.file:
            parts.append(self.file)
        return ", ".join(parts)


@dataclass(frozen=True)
class Place:
    """Where problems are reported for."""

    file: str | None = None
    image_id: Any = None
    annotation_id: Any = None


class Problems:
    """Collects problems, but those of silenced codes."""

    def __init__(self, ignored: Collection[str] = ()) -> None:
        self._ignored = frozenset(ignored)
        self._by_code: dict[str, list[Problem]] = {code: [] for code in KINDS}

    def add(self, code: str, text: str, place: Place | None = None) -> None:
        """Report a problem.

        Args:
            code: a key of :data:`.codes.KINDS`.
            text: what is wrong, with the values.
            place: None for a problem of the file as a whole.
        """
        if code in self._ignored:
            return
        place = place or Place()
        self._by_code[code].append(
            Problem(code, text, place.file, place.image_id, place.annotation_id)
        )

    def __iter__(self) -> Iterator[Problem]:
        """All, the worst kinds first."""
        for problems in self._by_code.values():
            yield from problems

    def of(self, code: str) -> list[Problem]:
        return self._by_code[code]

    def counts(self) -> dict[str, int]:
        """Number of problems by code, of the codes that occur, the worst first."""
        return {code: len(found) for code, found in self._by_code.items() if found}

    def severities(self) -> dict[Severity, int]:
        """Number of problems by severity."""
        found: Counter[Severity] = Counter()
        for code, count in self.counts().items():
            found[KINDS[code].severity] += count
        return {severity: found[severity] for severity in SEVERITIES}

    def exit_status(self, strict: bool) -> int:
        """1 if there are errors (or, if ``strict``, warnings), else 0."""
        found = self.severities()
        return int(bool(found["error"] or (strict and found["warning"])))


def shown(value: Any, limit: int = 60) -> str:
    """A value of the JSON for a message, cut if it is long."""
    if isinstance(value, (list, dict)) and len(value) > 20:
        return f"a {type(value).__name__} of {len(value)}"
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def printable(text: str) -> str:
    """Text from the data for a terminal: no control characters, no lines, and nothing that its
    encoding lacks."""
    encoding = sys.stdout.encoding or "utf-8"
    text = text.encode(encoding, "backslashreplace").decode(encoding)
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )
