"""The papers' two plots of recall: against the IoU, and against the number of proposals.

Nothing here uses the state of ``matplotlib.pyplot``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from instseg_d2.atomic_file import written_whole

from .recall import AREA_RANGES, AUC_PROPOSALS, IOU_THRESHOLDS, RecallCounts, area_under_curve


def plot_recall_against_iou(
    counts: Mapping[str, RecallCounts], limits: Sequence[int], out_png: str
) -> None:
    """Recall at each IoU threshold, a line for each number of proposals.

    Args:
        counts: by title, a panel each.
        limits: numbers of proposals, at most the counts' depth.
        out_png: the picture to write.
    """

    def draw(axes: Axes, recall: RecallCounts) -> None:
        recalls = recall.recalls()
        for limit in sorted(limits, reverse=True):  # the best line first in the legend
            label = f"{limit} proposals: AR {_percent(recalls[:, limit - 1].mean())}"
            axes.plot(IOU_THRESHOLDS, recalls[:, limit - 1], "o-", markersize=3.5, label=label)
        axes.set_xlim(IOU_THRESHOLDS[0], 1)
        axes.set_xlabel("IoU")
        axes.set_ylabel("recall")

    _save_panels(counts, draw, out_png)


def plot_average_recall(counts: Mapping[str, RecallCounts], out_png: str) -> None:
    """AR against the number of proposals on a logarithmic axis, a line for each area range.

    Args:
        counts: by title, a panel each.
        out_png: the picture to write.
    """

    def draw(axes: Axes, recall: RecallCounts) -> None:
        for index, area in enumerate(AREA_RANGES):
            curve = recall.average_recalls(area)
            label = f"{area} objects: AUC {_percent(area_under_curve(curve[:AUC_PROPOSALS]))}"
            axes.plot(np.arange(1, len(curve) + 1), curve, linewidth=1 if index else 2, label=label)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlim(1, recall.depth)
        axes.set_xlabel("proposals per image")
        axes.set_ylabel("average recall (IoU 0.5 to 0.95)")

    _save_panels(counts, draw, out_png)


def _percent(share: float) -> str:
    return "none" if np.isnan(share) else f"{100 * share:.1f}"


def _save_panels(
    counts: Mapping[str, RecallCounts], draw: Callable[[Axes, RecallCounts], None], out_png: str
) -> None:
    figure = Figure(figsize=(5.2 * len(counts), 4.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(counts), squeeze=False)[0]
    for axes, (title, recall) in zip(panels, counts.items(), strict=True):
        draw(axes, recall)
        axes.set_title(title, loc="left", fontweight="bold")
        axes.set_ylim(0, 1)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    with written_whole(out_png) as file:
        figure.savefig(file, format="png")
