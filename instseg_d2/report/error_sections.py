"""The sections of a report that show what goes wrong."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from ..html_page import (
    Cell,
    Section,
    folded,
    gallery,
    heading,
    join,
    legend,
    number,
    paragraph,
    preformatted,
    scrolling,
    table,
)
from .matching import ERROR_KINDS, OVERLAP
from .pictures import COLOURS, MEANINGS, Drawn
from .score_sections import Findings

MATRIX_CLASSES = 20
"""Classes in the matrix; of more, those that are confused most, and the rest taken together."""

PAIRS_LISTED = 20

MAX_NAME = 14
"""Characters of a class's name over a column of the matrix."""


def error_section(findings: Findings) -> Section:
    """Kinds of errors and confusions between classes."""
    statistics = findings.statistics
    if not statistics.objects.sum() and not statistics.confusion.any():
        return Section("Errors", Markup(""))
    parts = [
        paragraph(
            f"Of detections with a score of at least {statistics.min_score:g}; an object is found "
            f"from an overlap (IoU) of {OVERLAP} on.", soft=True,
        ),
        _kinds(findings),
        heading("Confusion between classes"),
        _matrix(findings),
    ]  # fmt: skip
    pairs = statistics.confused(PAIRS_LISTED)
    names = list(findings.truth.names.values())
    if pairs:
        rows = [(names[i], names[j], number(count, 0)) for i, j, count in pairs]
        parts.append(
            table(["Object", "Taken for", "Times"], rows, caption="The most frequent confusions")
        )
    return Section("Errors", join(parts))


def _kinds(findings: Findings) -> Markup:
    statistics = findings.statistics
    true = int(np.trace(statistics.confusion[:-1, :-1]))
    missed = int(statistics.objects.sum()) - true
    entries = [
        ("true", true, "the right class, and the object's best detection"),
        *((kind, statistics.errors[kind], meaning) for kind, meaning in ERROR_KINDS.items()),
        ("missed objects", missed, "no detection of their class has found them"),
    ]
    most = max(*(count for _, count, _ in entries), 1)
    rows: list[Sequence[Cell | str]] = [
        (name, number(count, 0, most=most), meaning) for name, count, meaning in entries
    ]
    return table(["Kind", "Number", "Meaning"], rows, caption="What became of the detections")


def _matrix(findings: Findings) -> Markup:
    """Rows are classes of objects, columns those of detections; shades are shares of the row."""
    matrix, names = shown_matrix(
        findings.statistics.confusion, list(findings.truth.names.values()), MATRIX_CLASSES
    )
    heads = join(
        Markup('<th scope="col" title="{}"><span>{}</span></th>').format(name, _short(name))
        for name in [*names, "missed"]
    )
    lines = []
    for i, name in enumerate([*names, "no object"]):
        total = max(int(matrix[i].sum()), 1)
        cells = []
        for j, count in enumerate(matrix[i].tolist()):
            shade = "--s2" if i == j else "--s1"
            style = Markup(' style="--part:{:.2f};--shade:var({})"').format(count / total, shade)
            cells.append(
                Markup("<td{}>{:,}</td>").format(style, count) if count else Markup("<td></td>")
            )
        lines.append(
            Markup('<tr><th scope="row" title="{}">{}</th>{}</tr>').format(
                name, _short(name), join(cells)
            )
        )
    caption = "Rows: what the object is; columns: what it was taken for"
    if len(findings.truth.names) > MATRIX_CLASSES:
        caption += f"; the {MATRIX_CLASSES} classes that are confused most"
    return scrolling(
        Markup(
            '<table class="matrix"><caption><span>{}</span></caption>'
            "<thead><tr><td></td>{}</tr></thead><tbody>{}</tbody></table>"
        ).format(caption, heads, join(lines, "\n")),
        "Confusion matrix",
    )


def shown_matrix(matrix: np.ndarray, names: list[str], limit: int) -> tuple[np.ndarray, list[str]]:
    """A confusion matrix small enough to be read.

    Args:
        matrix: (K + 1, K + 1), the last row and column for "none".
        names: K.
        limit: classes to keep; the others are added up as one.

    Returns:
        the matrix and the names of its classes.
    """
    count = len(names)
    if count <= limit:
        return matrix, names
    between = matrix[:count, :count].copy()
    np.fill_diagonal(between, 0)
    # Of classes that are never confused, those with the most objects.
    weight = between.sum(axis=0) + between.sum(axis=1) + matrix[:count].sum(axis=1) * 1e-9
    kept = np.sort(np.argsort(-weight, kind="stable")[:limit])
    place = np.full(count + 1, limit)
    place[kept] = np.arange(limit)
    place[count] = limit + 1
    small = np.zeros((limit + 2, limit + 2), matrix.dtype)
    np.add.at(small, (place[:, None], place[None, :]), matrix)
    return small, [*(names[i] for i in kept), f"{count - limit} others"]


def _short(name: str) -> str:
    return name if len(name) <= MAX_NAME else name[: MAX_NAME - 1] + "…"


def picture_section(best: Drawn, worst: Drawn, reason: str | None) -> Section:
    """The best and the worst images.

    Args:
        reason: why there are no pictures at all; None if there may be.
    """
    if reason is not None:
        return Section("Pictures", paragraph(reason))
    parts = [
        paragraph(
            "Images are ranked by panoptic quality: the sum of the found objects' overlaps, "
            "divided by their number plus half of the false and missed ones; 1 is perfect.",
            soft=True,
        ),
        legend((_css(COLOURS[kind]), meaning) for kind, meaning in MEANINGS.items()),
    ]
    if worst.figures:
        parts += [heading("The worst"), gallery(worst.figures)]
    if best.figures:
        parts += [heading("The best"), gallery(best.figures)]
    failures = list(dict.fromkeys(best.failures + worst.failures))
    if not best.figures and not worst.figures:
        parts = [paragraph("No picture could be drawn.")]
    if failures:
        text = "\n".join(failures[:20])
        summary = f"{len(failures)} images could not be drawn"
        parts.append(folded(summary, preformatted(text, wrap=True), is_open=True))
    return Section("Pictures", join(parts))


def _css(colour: Sequence[float]) -> str:
    return "#" + "".join(f"{round(255 * part):02x}" for part in colour)
