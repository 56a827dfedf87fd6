"""The sections of a report that say how good the results are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from markupsafe import Markup

from ..coco_metrics import Task
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
    paragraph,
    table,
    tiles,
)
from ..svg_charts import Axis, Bar, Curve, bar_chart, line_chart
from .precision import IOUS, RECALLS, TASK_NAMES, Precision
from .results import Results
from .run_folder import RunTime
from .statistics import NUM_BINS, Calibration, Statistics
from .truth import SIZES, Truth

Row = Sequence[Cell | str]

MAX_CLASSES_DRAWN = 30
"""Classes that get a chart: those with the most objects."""

CURVE_IOUS = (0, 5, 8)
"""Of :data:`IOUS`: 0.5, 0.75, 0.9."""

PERCENT = Axis("precision, %", 0, 100)
RECALL_AXIS = Axis("recall, %", 0, 100)


@dataclass(frozen=True)
class Findings:
    """All that was computed.

    Attributes:
        figures: by task, the one that counts most first; empty without detections or objects.
        remarks: what the reader must know.
    """

    truth: Truth
    results: Results
    figures: dict[Task, Precision]
    statistics: Statistics
    run_time: RunTime | None
    remarks: list[str]

    @property
    def main(self) -> Precision | None:
        """Masks' figures; boxes', where there are no masks."""
        return next(iter(self.figures.values()), None)

    @property
    def main_name(self) -> str:
        return "boxes" if "segm" not in self.figures else "masks"

    @cached_property
    def calibration(self) -> Calibration:
        return self.statistics.calibration()


def summary_section(findings: Findings) -> Section:
    """The headline figures, and what is amiss."""
    items = []
    for task, name in (("segm", "Mask AP"), ("bbox", "Box AP"), ("boundary", "Boundary AP")):
        if task in findings.figures:
            figures = findings.figures[task]
            more = f"AP50 {_plain(figures.at_iou(0))} · AP75 {_plain(figures.at_iou(5))}"
            items.append(Tile(name, _plain(figures.overall()), more))
    best = findings.statistics.best_threshold()
    if best is not None:
        precision, recall = f"{best.precision:.0%}", f"{best.recall:.0%}"
        items.append(
            Tile("Best F1", f"{best.f1:.2f}", f"from score {best.threshold:.2f} on: {precision} "
                 f"right, {recall} found")
        )  # fmt: skip
    error = findings.calibration.error
    if math.isfinite(error):
        items.append(Tile("Calibration error", f"{100 * error:.1f} %", "of scores, see below"))
    time = findings.run_time
    if time is not None:
        seconds = time.total if time.network is None else time.network
        what = "all" if time.network is None else "the model"
        items.append(Tile("Run time", f"{1000 * seconds:.0f} ms", f"{what}, per iteration"))
    items += [
        Tile("Images", f"{len(findings.truth.images):,}"),
        Tile("Objects", f"{int(findings.statistics.objects.sum()):,}"),
        Tile("Detections", f"{len(findings.results.entries):,}"),
    ]
    return Section("Summary", join([*map(notice, findings.remarks), tiles(items)]))


def precision_section(findings: Findings) -> Section:
    """AP by IoU and by size."""
    main = findings.main
    if main is None:
        return Section("Average precision", Markup(""))
    explained = paragraph(
        "Average precision (AP) is the area under the curve of precision against recall, in "
        "percent, averaged over classes and over the overlaps (IoU) 0.50 to 0.95 from which on a "
        "detection counts. Average recall (AR) is the share of objects that is found with up to "
        "100 detections of each class and image.",
        soft=True,
    )
    bars = [Bar(f"{iou:.2f}", main.at_iou(i)) for i, iou in enumerate(IOUS)]
    by_iou = bar_chart(
        bars, Axis("AP", 0, 100), title=f"AP of {findings.main_name} by overlap",
        x_label="IoU from which on a detection counts",
    )  # fmt: skip
    bars = [Bar(size, main.of_size(size)) for size in SIZES]
    by_size = bar_chart(
        bars, Axis("AP", 0, 100), title=f"AP of {findings.main_name} by size",
        x_label="area below 32², below 96², the rest (pixels)",
    )  # fmt: skip
    return Section(
        "Average precision",
        join([explained, charts([by_iou, by_size]), _tasks_table(findings), _sizes(findings)]),
    )


def _tasks_table(findings: Findings) -> Markup:
    columns = ["", "AP", *(f"AP{100 * iou:.0f}" for iou in IOUS), "AR"]
    rows: list[Row] = [
        [
            TASK_NAMES[task],
            number(figures.overall()),
            *(number(figures.at_iou(index)) for index in range(len(IOUS))),
            number(figures.recall()),
        ]
        for task, figures in findings.figures.items()
    ]
    return table(columns, rows, caption="AP by overlap (AP50: from IoU 0.50 on)")


def _sizes(findings: Findings) -> Markup:
    counts = findings.truth.counts_by_size()
    columns = ["Size", "Objects"]
    for task in findings.figures:
        columns += [f"{TASK_NAMES[task]} AP", f"{TASK_NAMES[task]} AR"]
    rows = []
    for size in SIZES:
        row: list[Cell | str] = [size, number(counts[size], 0)]
        for figures in findings.figures.values():
            row += [number(figures.of_size(size)), number(figures.recall_of_size(size))]
        rows.append(row)
    return table(columns, rows, caption="By size of the objects")


def class_section(findings: Findings) -> Section:
    """A row for each class."""
    names = list(findings.truth.names.values())
    counts = findings.statistics
    main = findings.main
    others = [task for task, figures in findings.figures.items() if figures is not main]
    columns = ["Class"]
    if main is not None:
        columns += ["AP", "AP50", "AP75"]
    columns += [f"{TASK_NAMES[task]} AP" for task in others]
    columns += ["Objects", "Images", "Detections"]
    rows = []
    for index, name in enumerate(names):
        row: list[Cell | str] = [name]
        if main is not None:
            row.append(number(main.of_class(index), most=100))
            row += [number(main.of_class(index, iou)) for iou in (0, 5)]
        row += [number(findings.figures[task].of_class(index)) for task in others]
        row += [
            number(int(values[index]), 0)
            for values in (counts.objects, counts.images, counts.detections)
        ]
        rows.append(row)
    caption = (
        f"AP of {findings.main_name}. Detections are those with a score of at least "
        f"{counts.min_score:g}. A click on a heading sorts."
    )
    return Section("Classes", table(columns, rows, caption=caption, sortable=True))


def curve_section(findings: Findings) -> Section:
    """Precision against recall, overall and by class."""
    main = findings.main
    if main is None:
        return Section("Precision and recall", Markup(""))
    recalls = 100 * RECALLS
    overall = [Curve(f"IoU {IOUS[i]:.2f}", recalls, main.curve(i)) for i in range(0, 10, 2)]
    title = f"All classes ({findings.main_name}, mean over classes)"
    parts = [
        paragraph(
            "Each curve runs through all thresholds on the score: from few detections, which "
            "should be right, on the left, to all on the right.", soft=True,
        ),
        charts([line_chart(overall, RECALL_AXIS, PERCENT, title=title)]),
    ]  # fmt: skip
    objects = findings.statistics.objects
    order = [int(i) for i in np.argsort(-objects, kind="stable") if objects[i]]
    names = list(findings.truth.names.values())
    drawn = [
        line_chart(
            [Curve(f"IoU {IOUS[iou]:.2f}", recalls, main.curve(iou, i)) for iou in CURVE_IOUS],
            RECALL_AXIS, PERCENT, title=f"{names[i]} (AP {_plain(main.of_class(i))})",
        )
        for i in order[:MAX_CLASSES_DRAWN]
    ]  # fmt: skip
    summary = f"Curves of {len(drawn)} classes"
    if len(order) > len(drawn):
        summary += f", those with the most objects of {len(order)}"
    parts.append(folded(summary, charts(drawn), is_open=len(drawn) <= 8))
    return Section("Precision and recall", join(parts))


def score_section(findings: Findings) -> Section:
    """Calibration, and which threshold to choose."""
    calibration = findings.calibration
    if not calibration.counts.sum():
        return Section("Scores", Markup(""))
    explained = paragraph(
        "Where scores are calibrated, of all detections with a score of about 0.7 seven in ten are "
        "true (right class, IoU of at least 0.5), and the curve runs along the dashed line. Below "
        "it scores are too high, above it too low. The expected calibration error (ECE) is the "
        "mean distance, weighted by the number of detections.",
        soft=True,
    )
    curve = Curve("detections", calibration.scores, calibration.precisions, dots=True)
    chart = line_chart(
        [curve], Axis("mean score"), Axis("share that is true"), diagonal=True,
        title="Reliability",
        caption=f"ECE {100 * calibration.error:.1f} % of {calibration.counts.sum():,} detections; "
        + _calibration_above(findings),
    )  # fmt: skip
    rows: list[Row] = [
        [
            f"{i / NUM_BINS:.1f}\u2060–\u2060{(i + 1) / NUM_BINS:.1f}",
            number(int(calibration.counts[i]), 0, most=int(calibration.counts.max())),
            number(calibration.scores[i], 3),
            number(calibration.precisions[i], 3),
        ]
        for i in range(NUM_BINS)
    ]
    columns = ["Score", "Detections", "Mean score", "Share true"]
    bins = table(columns, rows, caption="Detections by score")
    return Section("Scores", join([explained, _threshold(findings), charts([chart, bins])]))


def _calibration_above(findings: Findings) -> str:
    min_score = findings.statistics.min_score
    above = findings.statistics.calibration(min_score)
    if not above.counts.sum():
        return f"none has a score of at least {min_score:g}"
    error, count = f"{100 * above.error:.1f}", f"{above.counts.sum():,}"
    return f"{error} % of the {count} with a score of at least {min_score:g}"


def _threshold(findings: Findings) -> Markup:
    best = findings.statistics.best_threshold()
    if best is None:
        return Markup("")
    text = Markup(
        "A good threshold to start with is <strong>{:.2f}</strong>, where F1 over all classes is "
        "highest ({:.2f}): {:.1%} of the detections with at least this score are true, and {:.1%} "
        "of the objects are found."
    ).format(best.threshold, best.f1, best.precision, best.recall)
    return join([heading("Which threshold?"), paragraph(text)])


def _plain(value: float) -> str:
    return f"{value:.1f}" if math.isfinite(value) else "–"
