"""Plots of the statistics.

Nothing here uses the state of ``matplotlib.pyplot``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..atomic_file import written_whole
from ..data.own_statistics import SIZE_LIMITS
from .statistics import Statistics

COLOUR = "#0072b2"

MAX_CLASSES = 40
"""More classes are cut in the middle of the plot; the table has all."""

MAX_NAME = 24
"""Characters of a class name in a plot."""

HEAT_CELLS = 40

Draw = Callable[[Axes, Statistics], None]


def plots(statistics: Statistics) -> dict[str, Figure]:
    """A figure for each title."""
    return {title: _figure(title, draw, statistics) for title, draw in _PLOTS.items()}


def save_plots(statistics: Statistics, path: str) -> None:
    """All plots in one picture, PNG."""
    columns = 4
    rows = -(-len(_PLOTS) // columns)
    figure = Figure(figsize=(5 * columns, 5 * rows), dpi=90, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns).reshape(-1)
    for axes in panels[len(_PLOTS) :]:
        axes.set_axis_off()
    for axes, (title, draw) in zip(panels, _PLOTS.items(), strict=False):
        _panel(axes, title, draw, statistics)
    with written_whole(path) as file:
        figure.savefig(file, format="png")


def _figure(title: str, draw: Draw, statistics: Statistics) -> Figure:
    height = 3.6
    if draw is _classes:
        height = max(height, 0.9 + 0.19 * min(len(statistics.classes), MAX_CLASSES + 1))
    figure = Figure(figsize=(5, height), layout="constrained")
    FigureCanvasAgg(figure)
    _panel(figure.subplots(), title, draw, statistics)
    return figure


def _panel(axes: Axes, title: str, draw: Draw, statistics: Statistics) -> None:
    axes.set_title(title, loc="left", fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)
    if len(statistics.areas):
        draw(axes, statistics)
    else:
        axes.text(0.5, 0.5, "no objects", ha="center", transform=axes.transAxes)


def _classes(axes: Axes, statistics: Statistics) -> None:
    counts = sorted(statistics.classes, key=lambda one: one.objects)
    names = [one.name for one in counts]
    values = [one.objects for one in counts]
    if len(counts) > MAX_CLASSES:
        half = MAX_CLASSES // 2
        left_out = len(counts) - 2 * half
        names = [*names[:half], f"({left_out} more)", *names[-half:]]
        values = [*values[:half], 0, *values[-half:]]
    places = np.arange(len(names))
    axes.barh(places, values, color=COLOUR)
    axes.set_yticks(places)
    for label in axes.set_yticklabels([_short(name) for name in names], fontsize=7):
        label.set_parse_math(False)
    if min(values, default=0) >= 0 and max(values) > 50:
        axes.set_xscale("symlog", linthresh=10)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlabel("objects")
    axes.grid(alpha=0.25, axis="x")


def _short(name: str) -> str:
    """A name for a plot, whose fonts lack many characters and whose lines must not break."""
    name = "".join(c if c.isprintable() and ord(c) < 0x2100 else "?" for c in name)
    return name if len(name) <= MAX_NAME else name[: MAX_NAME - 3] + "..."


def _per_image(axes: Axes, statistics: Statistics) -> None:
    most = int(statistics.per_image.max())
    edges = np.arange(most + 2) - 0.5 if most <= 60 else np.linspace(-0.5, most + 0.5, 50)
    _histogram(axes, statistics.per_image, edges, "objects in an image", "images")


def _sizes(axes: Axes, statistics: Statistics) -> None:
    sides = np.sqrt(np.maximum(statistics.areas, 0.25))
    _histogram(axes, sides, _log_edges(sides), "square root of the mask's area (pixels)", "objects")
    axes.set_xscale("log")
    for limit in list(SIZE_LIMITS.values())[:-1]:
        axes.axvline(limit**0.5, color="#d55e00", linewidth=1, linestyle="--")
    counts = statistics.size_counts()
    total = max(1, sum(counts.values()))
    text = "\n".join(f"{name} {count / total:.0%}" for name, count in counts.items())
    axes.text(0.02, 0.97, text, transform=axes.transAxes, va="top", fontsize=8)


def _shares(axes: Axes, statistics: Statistics) -> None:
    _histogram(axes, 100 * statistics.shares, np.linspace(0, 100, 41),
               "share of the image that the mask covers (%)", "objects")  # fmt: skip
    axes.set_yscale("log")


def _aspects(axes: Axes, statistics: Statistics) -> None:
    sides = np.maximum(statistics.sides, 1e-3)
    aspects = np.clip(sides[:, 0] / sides[:, 1], 1 / 16, 16)
    edges = np.geomspace(1 / 16, 16, 49)
    _histogram(axes, aspects, edges, "width : height of an object's box", "objects")
    axes.set_xscale("log", base=2)
    axes.set_xticks([1 / 16, 1 / 4, 1, 4, 16], ["1:16", "1:4", "1:1", "4:1", "16:1"])


def _image_sizes(axes: Axes, statistics: Statistics) -> None:
    if not len(statistics.image_sizes):
        return
    sizes, counts = np.unique(statistics.image_sizes, axis=0, return_counts=True)
    areas = 8 + 120 * counts / counts.max()
    axes.scatter(sizes[:, 1], sizes[:, 0], s=areas, color=COLOUR, alpha=0.45, linewidth=0)
    axes.set_xlim(0, 1.08 * sizes[:, 1].max())
    axes.set_ylim(0, 1.08 * sizes[:, 0].max())
    axes.set_xlabel("width of the images (pixels)")
    axes.set_ylabel("height")
    axes.grid(alpha=0.25)


def _centres(axes: Axes, statistics: Statistics) -> None:
    x, y = statistics.centres.T
    heat, _, _ = np.histogram2d(y, x, bins=HEAT_CELLS, range=[[0, 1], [0, 1]])
    picture = axes.imshow(heat, extent=(0, 1, 1, 0), cmap="magma", interpolation="nearest")
    axes.figure.colorbar(picture, ax=axes, label="objects")
    axes.set_xticks([0, 0.5, 1], ["left", "", "right"])
    axes.set_yticks([0, 0.5, 1], ["top", "", "bottom"])


def _log_edges(values: np.ndarray) -> np.ndarray:
    return np.geomspace(values.min() * 0.99, values.max() * 1.01, 41)


def _histogram(axes: Axes, values: np.ndarray, edges: np.ndarray, xlabel: str, ylabel: str) -> None:
    axes.hist(values, bins=edges.tolist(), color=COLOUR)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(alpha=0.25)


_PLOTS: dict[str, Draw] = {
    "Objects per class": _classes,
    "Objects per image": _per_image,
    "Sizes of objects": _sizes,
    "Mask area": _shares,
    "Shape of objects": _aspects,
    "Sizes of images": _image_sizes,
    "Where objects are": _centres,
}
