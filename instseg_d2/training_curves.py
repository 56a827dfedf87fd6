"""Training curves from Detectron2's ``metrics.json``.

Nothing here uses the state of ``matplotlib.pyplot``.
"""

from __future__ import annotations

import json
import logging
import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from instseg_d2.atomic_file import written_whole
from instseg_d2.errors import DataError

logger = logging.getLogger(__name__)

Series = tuple[np.ndarray, np.ndarray]
"""Iterations and finite values of one metric, both (N,)."""


def plot_training_curves(metrics_json: str, out_png: str) -> None:
    """Plot the losses, and the validation AP if there is one, against the iteration.

    Args:
        metrics_json: Detectron2's ``metrics.json``: a JSON object in each line. Lines that are no
            JSON (a crash may tear the last one) are passed over. After a resumed run the lines that
            it repeated count, not those of the run before.
        out_png: the picture to write.

    Raises:
        DataError: the file is absent or has no losses.
    """
    losses, precisions = losses_and_precisions(metrics_json)
    if not losses:
        raise DataError(f"{metrics_json} has no losses yet, so there is nothing to plot.")
    panels = 2 if precisions else 1
    figure = Figure(figsize=(6.4 * panels, 4.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    _plot_losses(axes[0], losses)
    if precisions:
        _plot_precisions(axes[1], precisions)
    with written_whole(out_png) as file:
        figure.savefig(file, format="png")


def losses_and_precisions(metrics_json: str) -> tuple[dict[str, Series], dict[str, Series]]:
    """Losses, and AP of masks on validation data, by their names in Detectron2's ``metrics.json``.

    Raises:
        DataError: the file cannot be read.
    """
    entries = _read_metrics(metrics_json)
    keys = sorted({key for entry in entries for key in entry})
    losses = [key for key in keys if _is_loss(key)]
    precisions = [key for key in keys if key == "segm/AP" or key.endswith("/segm/AP")]
    return (
        {key: _series(entries, key) for key in losses},
        {key: _series(entries, key) for key in precisions},
    )


def _is_loss(key: str) -> bool:
    return key == "total_loss" or key.startswith("loss_")


def _read_metrics(path: str) -> list[dict[str, Any]]:
    """The lines that count, in the order of their iterations."""
    entries: dict[int, dict[str, Any]] = {}
    torn, last = 0, -1
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read().split("\n")
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error}). Training writes it into OUTPUT_DIR."
        ) from error
    for line in lines:
        try:
            entry = json.loads(line)
            iteration = int(entry["iteration"])
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            torn += bool(line.strip())
            continue
        # Values that are not written at each iteration come behind those of later ones; losses
        # only do after a resumption.
        if iteration < last and any(_is_loss(key) for key in entry):
            entries = {known: value for known, value in entries.items() if known < iteration}
            last = iteration
        last = max(last, iteration)
        entries[iteration] = {**entries.get(iteration, {}), **entry}
    if torn:
        logger.warning("%s: passed over %d lines that are no metrics", path, torn)
    return [entries[iteration] for iteration in sorted(entries)]


def _series(entries: list[dict[str, Any]], key: str) -> Series:
    points = [
        (entry["iteration"], entry[key])
        for entry in entries
        if isinstance(entry.get(key), (int, float)) and math.isfinite(entry[key])
    ]
    iterations, values = np.array(points, float).reshape(-1, 2).T
    return iterations, values


def _smooth(values: np.ndarray) -> np.ndarray:
    """Mean over a centred window of about 1/20 of the points, cut off at the ends."""
    reach = len(values) // 40
    sums = np.concatenate(([0.0], np.cumsum(values)))
    index = np.arange(len(values))
    start, stop = np.maximum(index - reach, 0), np.minimum(index + reach + 1, len(values))
    smooth: np.ndarray = (sums[stop] - sums[start]) / (stop - start)
    return smooth


def _plot_losses(axes: Axes, losses: dict[str, Series]) -> None:
    parts = [key for key in losses if key != "total_loss"]
    for key in sorted(losses, key=lambda key: key != "total_loss"):  # the total first in the legend
        iterations, values = losses[key]
        total = key == "total_loss"
        colour = "#222222" if total else f"C{parts.index(key) % 10}"
        label = "total" if total else key.removeprefix("loss_")
        axes.plot(iterations, values, color=colour, alpha=0.2, linewidth=0.8)
        axes.plot(
            iterations, _smooth(values), color=colour, linewidth=2.2 if total else 1.5, label=label
        )
    shown = np.concatenate([_smooth(values) for _, values in losses.values()])
    if len(shown):
        # The first iterations may be so high that nothing else could be seen.
        axes.set_ylim(0, 1.15 * max(np.quantile(shown, 0.99), 1e-6))
    _tidy(axes, "training loss")


def _plot_precisions(axes: Axes, precisions: dict[str, Series]) -> None:
    for index, (key, (iterations, values)) in enumerate(precisions.items()):
        data_set = key.removesuffix("segm/AP").rstrip("/") or "mask AP"
        axes.plot(iterations, values, "o-", markersize=4, color=f"C{index % 10}", label=data_set)
        if len(values):
            best = int(values.argmax())
            axes.annotate(
                f"{values[best]:.1f}",
                (iterations[best], values[best]),
                textcoords="offset points",
                xytext=(0, 6),
                ha="center",
            )
    axes.margins(y=0.15)
    _tidy(axes, "validation mask AP")


def _tidy(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontweight="bold")
    axes.set_xlabel("iteration")
    axes.set_xlim(left=0)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if len(axes.get_legend_handles_labels()[1]) > 1:
        axes.legend(frameon=False)
