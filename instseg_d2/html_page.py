"""Pages for people: one HTML file that needs nothing else, neither a network nor other files.

Text is escaped unless it is :class:`markupsafe.Markup`, which the functions here return; so names
from data can be given as they are. A page reads well on a phone, on paper, in the dark and with the
keyboard, and without its scripts, which only sort and filter. Its content security policy forbids
the browser to load anything, and any script but these.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from .atomic_file import written_whole
from .html_assets import SCRIPT, STYLE

Content = str
"""A plain ``str`` is escaped where it goes into a page; ``Markup``, a kind of ``str``, is not."""

EMPTY = Markup("")


class Section(NamedTuple):
    """A part of a page, with an entry in its contents."""

    title: str
    body: Markup


class Cell(NamedTuple):
    """What a table shows in one place.

    Attributes:
        text: what is read.
        value: what the column is sorted by: a number, NaN for none; None for a text.
        part: 0..1: a bar of this part of the cell's width lies behind the text; None for no bar.
    """

    text: Content
    value: float | None = None
    part: float | None = None


class Tile(NamedTuple):
    """A figure that catches the eye."""

    label: str
    value: str
    more: str = ""


def number(value: float, digits: int = 1, *, most: float | None = None) -> Cell:
    """A cell with a number; a dash for one that is not finite.

    Args:
        value: any number.
        digits: behind the point.
        most: draw a bar, which is full at this value.
    """
    if not math.isfinite(value):
        return Cell("–", math.nan)
    part = min(max(value / most, 0.0), 1.0) if most else None
    return Cell(f"{value:,.{digits}f}", float(value), part)


def page(
    title: str,
    sections: Sequence[Section],
    *,
    subtitle: Content = "",
    footer: Content = "",
    style: str = "",
    script: str = "",
) -> str:
    """The text of the HTML file.

    Args:
        title: of the page and of the browser's window.
        sections: those without a body are left out.
        subtitle: one or two lines below the title.
        footer: at the end: who made the page, and when.
        style: of this kind of page, after the style that all share.
        script: of this kind of page, run after the one that all share.
    """
    scripts = [one for one in (SCRIPT, script) if one]
    sections = [section for section in sections if section.body]
    names = _anchors([section.title for section in sections])
    links = join(
        Markup('<li><a href="#{}">{}</a></li>').format(name, section.title)
        for name, section in zip(names, sections, strict=True)
    )
    parts = join(
        (
            Markup('<section aria-labelledby="{}">\n<h2 id="{}">{}</h2>\n{}\n</section>').format(
                name, name, section.title, section.body
            )
            for name, section in zip(names, sections, strict=True)
        ),
        "\n",
    )
    return str(
        _SKELETON.format(
            policy=_policy(scripts),
            title=title,
            style=Markup(STYLE + style),
            subtitle=Markup("<p class=soft>{}</p>").format(subtitle) if subtitle else EMPTY,
            links=links,
            sections=parts,
            footer=Markup("<footer>{}</footer>").format(footer) if footer else EMPTY,
            scripts=join(Markup("<script>{}</script>\n").format(Markup(one)) for one in scripts),
        )
    )


_SKELETON = Markup("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<a class="skip" href="#content">Skip to the content</a>
<div class="page">
<header>
<h1>{title}</h1>
{subtitle}
<nav aria-label="Contents"><ul>{links}</ul></nav>
</header>
<main id="content">
{sections}
</main>
{footer}
</div>
{scripts}</body>
</html>
""")


def _policy(scripts: Iterable[str]) -> str:
    digests = (base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src {allowed}; base-uri 'none'; form-action 'none'"
    )


def _anchors(titles: Iterable[str]) -> list[str]:
    """A name for each title, letters of ASCII and all different."""
    names: list[str] = []
    for title in titles:
        stem = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "section"
        name, count = stem, 2
        while name in names or name == "content":
            name, count = f"{stem}-{count}", count + 1
        names.append(name)
    return names


def write_page(path: str, text: str) -> int:
    """Write the text of a page, whole or not at all; return its size in bytes."""
    # What no encoding can hold (half a surrogate pair, which JSON allows) becomes a question mark.
    content = text.encode("utf-8", errors="replace")
    with written_whole(path) as file:
        file.write(content)
    return len(content)


# ---------------------------------------------------------------------------------- elements


def join(parts: Iterable[Content], between: str = "") -> Markup:
    """One after another."""
    return Markup(between).join(parts)


def paragraph(text: Content, *, soft: bool = False) -> Markup:
    """A paragraph, paler if ``soft``."""
    return Markup("<p{}>{}</p>").format(Markup(" class=soft") if soft else EMPTY, text)


def heading(text: Content) -> Markup:
    """A heading inside a section."""
    return Markup("<h3>{}</h3>").format(text)


def notice(text: Content) -> Markup:
    """Something that the reader must not miss."""
    return Markup('<p class="notice" role="note">{}</p>').format(text)


def preformatted(text: str, *, wrap: bool = False) -> Markup:
    """Text whose lines and spaces stay as they are; ``wrap`` breaks lines that are too long."""
    return Markup('<pre tabindex="0"{}>{}</pre>').format(
        Markup(' class="wrap"') if wrap else EMPTY, text
    )


def folded(summary: Content, body: Markup, *, is_open: bool = False) -> Markup:
    """What is seen only after a click on its summary."""
    return Markup("<details{}><summary>{}</summary>\n{}</details>").format(
        Markup(" open") if is_open else EMPTY, summary, body
    )


def tiles(items: Iterable[Tile]) -> Markup:
    """Figures side by side."""
    cells = []
    for item in items:
        more = Markup('<dd class="more">{}</dd>').format(item.more) if item.more else EMPTY
        cells.append(
            Markup('<div class="tile"><dt>{}</dt><dd>{}</dd>{}</div>').format(
                item.label, item.value, more
            )
        )
    return Markup('<dl class="tiles">{}</dl>').format(join(cells))


def legend(items: Iterable[tuple[str, Content]]) -> Markup:
    """Colours (as CSS writes them) and what they stand for."""
    entries = join(
        Markup('<li><span class="swatch" style="--colour:{}"></span>{}</li>').format(colour, text)
        for colour, text in items
    )
    return Markup('<ul class="legend">{}</ul>').format(entries)


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[Cell | Content]],
    *,
    caption: str,
    sortable: bool = False,
) -> Markup:
    """A table; its first column names the rows.

    Args:
        columns: headings.
        rows: as long as ``columns``. A column is one of numbers if its first cell has a value.
        caption: says what is in the table.
        sortable: a click on a heading sorts by that column.
    """
    entries = [[_cell(cell) for cell in row] for row in rows]
    numeric = [cell.value is not None for cell in entries[0]] if entries else [False] * len(columns)
    heads = join(
        Markup('<th scope="col"{}>{}</th>').format(
            Markup(' class="number"') if is_number else EMPTY, column
        )
        for column, is_number in zip(columns, numeric, strict=True)
    )
    lines = []
    for row in entries:
        first = Markup('<th scope="row">{}</th>').format(row[0].text)
        lines.append(Markup("<tr>{}{}</tr>").format(first, join(map(_data, row[1:]))))
    return scrolling(
        Markup(
            "<table{}><caption><span>{}</span></caption>\n<thead><tr>{}</tr></thead>\n"
            "<tbody>\n{}\n</tbody></table>"
        ).format(Markup(' class="sortable"') if sortable else EMPTY, caption, heads,
                 join(lines, "\n")),
        caption,
    )  # fmt: skip


def scrolling(body: Markup, label: str) -> Markup:
    """What may be wider than the page; it can be scrolled with the keyboard too."""
    return Markup('<div class="wide" role="region" aria-label="{}" tabindex="0">{}</div>').format(
        label, body
    )


def _cell(cell: Cell | Content) -> Cell:
    return cell if isinstance(cell, Cell) else Cell(cell)


def _data(cell: Cell) -> Markup:
    if cell.value is None:
        return Markup("<td>{}</td>").format(cell.text)
    kind, style = "number", EMPTY
    if cell.part is not None:
        kind, style = "number bar", Markup(' style="--part:{}%"').format(round(100 * cell.part, 1))
    return Markup('<td class="{}" data-sort="{:.6g}"{}>{}</td>').format(
        kind, cell.value, style, cell.text
    )


def picture(
    image: np.ndarray, alt: str, caption: Content = "", *, max_side: int = 640, quality: int = 80
) -> Markup:
    """A figure with a picture inside the page.

    Args:
        image: uint8 RGB (H, W, 3).
        alt: what is seen, for those who do not see it.
        caption: below the picture.
        max_side: larger pictures are made smaller: pixels of the longer side.
        quality: of the JPEG, 1..95.
    """
    shown = Image.fromarray(image)
    shown.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    shown.save(buffer, "JPEG", quality=quality, optimize=True)
    source = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    return figure(
        Markup('<img src="{}" width="{}" height="{}" alt="{}" loading="lazy">').format(
            source, shown.width, shown.height, alt
        ),
        caption,
    )


def plot(drawing: Figure, alt: str, caption: Content = "") -> Markup:
    """A figure with a figure of matplotlib's, as vectors.

    It is an image of its own, so that names within several of them do not meet.
    """
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="svg", metadata={"Date": None})
    source = "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()
    width, height = (round(96 * inches) for inches in drawing.get_size_inches())
    return figure(
        Markup('<img src="{}" width="{}" height="{}" alt="{}">').format(source, width, height, alt),
        caption,
    )


def figure(body: Markup, caption: Content = "") -> Markup:
    """A picture or a chart with a caption."""
    below = Markup("<figcaption>{}</figcaption>").format(caption) if caption else EMPTY
    return Markup("<figure>{}{}</figure>").format(body, below)


def gallery(figures: Iterable[Markup]) -> Markup:
    """Pictures side by side, as many as there is room for."""
    return Markup('<div class="gallery">{}</div>').format(join(figures, "\n"))


def charts(figures: Iterable[Markup]) -> Markup:
    """Charts side by side, as many as there is room for."""
    return Markup('<div class="charts">{}</div>').format(join(figures, "\n"))
