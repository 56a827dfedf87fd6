"""A page to look through: problems, statistics, and annotated images.

One file, which opens from the disk and on a phone, see :mod:`instseg_d2.html_page`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from markupsafe import Markup

from .. import __version__
from ..html_page import (
    Cell,
    Section,
    Tile,
    charts,
    folded,
    heading,
    join,
    notice,
    number,
    page,
    paragraph,
    picture,
    plot,
    table,
    tiles,
    write_page,
)
from .check import CheckedData
from .codes import KINDS
from .pictures import Sample
from .plots import plots
from .problems import Problem
from .sheet_assets import SCRIPT, STYLE
from .statistics import Statistics


def write_sheet(
    path: str, data: CheckedData, statistics: Statistics, samples: list[Sample], most: int
) -> int:
    """Write the page; return its size in bytes.

    Args:
        path: of the HTML file.
        data: what was checked.
        statistics: of it.
        samples: images to show.
        most: problems of a code that are listed.
    """
    shown = {sample.image.image_id: sample.image.number for sample in samples}
    sections = [
        Section("Result", _result(data, statistics)),
        Section("Problems", _problems(data, shown, most)),
        Section("Statistics", _statistics(statistics)),
        Section("Classes", _classes(statistics)),
        Section("Images", _images(data, samples)),
    ]
    text = page(
        f"Data set {os.path.basename(data.json_file)}",
        sections,
        subtitle=f"{data.json_file}; images: {data.image_root or 'not looked at'}",
        footer=f"Made by tools/check_dataset.py of instseg-d2 {__version__}",
        style=STYLE,
        script=SCRIPT,
    )
    return write_page(path, text)


def _result(data: CheckedData, statistics: Statistics) -> Markup:
    found = data.problems.severities()
    sizes = statistics.size_counts()
    head = tiles(
        [
            Tile("errors", f"{found['error']:,}", "training or evaluation fails or is wrong"),
            Tile("warnings", f"{found['warning']:,}"),
            Tile("notes", f"{found['note']:,}"),
            Tile("images", f"{len(data.images):,}"),
            Tile(
                "objects",
                f"{len(statistics.areas):,}",
                ", ".join(f"{count:,} {name}" for name, count in sizes.items()),
            ),
            Tile("crowds", f"{statistics.crowds:,}"),
            Tile("suggested NUM_MASKS", str(statistics.num_masks)),
        ]
    )
    counts = data.problems.counts()
    if not counts:
        return head + paragraph("No problems were found.")
    rows = [
        (
            Markup('<a href="#code-{}">{}</a>').format(code, code),
            KINDS[code].severity,
            number(count, 0),
            KINDS[code].meaning,
        )
        for code, count in counts.items()
    ]
    columns = ("code", "severity", "problems", "what it is")
    return head + table(columns, rows, caption="Problems by code", sortable=True)


def _problems(data: CheckedData, shown: Mapping[object, int], most: int) -> Markup:
    parts = []
    for code, count in data.problems.counts().items():
        kind = KINDS[code]
        rows = [(_link(problem, shown), problem.text) for problem in data.problems.of(code)[:most]]
        body = paragraph(f"{kind.meaning[0].upper()}{kind.meaning[1:]}.", soft=True)
        body += table(("where", "what"), rows, caption=f"{len(rows)} of {count:,}")
        summary = f"{kind.severity}: {code} ({count:,})"
        parts.append(
            Markup('<div id="code-{}">{}</div>').format(
                code, folded(summary, body, is_open=kind.severity == "error")
            )
        )
    return join(parts, "\n")


def _link(problem: Problem, shown: Mapping[object, int]) -> Markup | str:
    """The place of a problem, which leads to its picture if that is on the page."""
    place = problem.place() or "the file"
    is_id = type(problem.image_id) in (int, float, str)
    index = shown.get(problem.image_id) if is_id else None
    if index is None:
        return place
    return Markup('<a href="#image-{}">{}</a>').format(index, place)


def _statistics(statistics: Statistics) -> Markup:
    lines = join((paragraph(line) for line in statistics.lines()), "\n")
    return lines + charts(plot(figure, title) for title, figure in plots(statistics).items())


def _classes(statistics: Statistics) -> Markup:
    most = max((counts.objects for counts in statistics.classes), default=0)
    rows = [
        (
            Cell(counts.name),
            number(counts.objects, 0, most=most),
            number(counts.images, 0),
            number(counts.crowds, 0),
            number(counts.small, 0),
            number(counts.medium, 0),
            number(counts.large, 0),
        )
        for counts in statistics.classes
    ]
    columns = ("class", "objects", "images", "crowds", "small", "medium", "large")
    caption = "Objects by class; small: below 32² pixels, medium: below 96²"
    return table(columns, rows, caption=caption, sortable=True)


# ------------------------------------------------------------------------------------ images


def _images(data: CheckedData, samples: list[Sample]) -> Markup:
    if not samples:
        return notice("Images were not looked at or not asked for.")
    numbers = {category_id: number for number, category_id in enumerate(data.categories)}
    used = sorted({numbers[one] for sample in samples for one in sample.categories})
    names = list(data.categories.values())
    codes = [
        code for code in KINDS if any(p.code == code for sample in samples for p in sample.problems)
    ]
    controls = Markup(
        '<p class="filters"><label>Class <select id="by-class"><option value="">all</option>{}'
        '</select></label> <label>Problem <select id="by-problem"><option value="">all</option>'
        '<option value="*">any</option>{}</select></label> <label>Name <input id="by-name" '
        'type="search" size="12"></label> <span id="number-shown" aria-live="polite"></span></p>'
    ).format(
        join(_option(str(index), names[index]) for index in used),
        join(_option(code, code) for code in codes),
    )
    figures = join((_sample(sample, data, numbers) for sample in samples), "\n")
    text = paragraph(
        "A choice of images, those with errors and warnings first, the others at random. "
        "Red frames: boxes of what has an error or a warning.",
        soft=True,
    )
    return text + controls + Markup('<div class="gallery">\n{}\n</div>').format(figures)


def _option(value: str, text: str) -> Markup:
    return Markup('<option value="{}">{}</option>').format(value, text)


def _sample(sample: Sample, data: CheckedData, numbers: Mapping[object, int]) -> Markup:
    image = sample.image
    title = f"image {image.image_id}, {image.file or 'without a file name'}"
    names = [data.categories[one] for one in sample.categories]
    lines = [Markup("<strong>{}</strong>").format(title)]
    if names:
        lines.append(join([", ".join(names)]))
    listed = sample.problems[:20]
    if listed:
        items = join(
            Markup('<li class="{}"><b>{}</b> {}{}</li>').format(
                problem.severity,
                problem.code,
                "" if problem.annotation_id is None else f"annotation {problem.annotation_id}: ",
                problem.text,
            )
            for problem in listed
        )
        lines.append(Markup("<ul>{}</ul>").format(items))
    if len(sample.problems) > len(listed):
        lines.append(Markup("and {} more").format(len(sample.problems) - len(listed)))
    caption = join(lines, "<br>")
    if sample.picture is None:
        body = heading("no picture") + caption
    else:
        body = picture(sample.picture, f"{title}, annotated", caption)
    return Markup(
        '<div class="sample" id="image-{}" data-classes="{}" data-problems="{}" data-name="{}">'
        "{}</div>"
    ).format(
        image.number,
        " ".join(str(numbers[one]) for one in sample.categories),
        " ".join(dict.fromkeys(problem.code for problem in sample.problems)),
        title,
        body,
    )
