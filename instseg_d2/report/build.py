"""From results and annotations to the text of the report."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass

from detectron2.config import CfgNode

from ..html_page import page
from .error_sections import error_section, picture_section
from .matching import match_images
from .pictures import Drawn, Ranking
from .precision import evaluate
from .results import Results
from .run_folder import RunFolder, modified, read_run_time, read_training
from .run_section import data_section, run_section
from .score_sections import (
    Findings,
    class_section,
    curve_section,
    precision_section,
    score_section,
    summary_section,
)
from .statistics import Statistics
from .truth import Truth


@dataclass(frozen=True)
class ReportOptions:
    """
    Attributes:
        min_score: lower scores (0..1) do not count for errors, confusions and pictures. They do for
            AP, curves and calibration.
        num_pictures: of the best images, and of the worst.
        boundary: compute boundary AP, which takes longer than all the rest.
        command: that makes the report, for the reader.
    """

    min_score: float = 0.3
    num_pictures: int = 6
    boundary: bool = True
    command: str = ""


def build_report(
    truth: Truth,
    results: Results,
    options: ReportOptions,
    *,
    cfg: CfgNode | None = None,
    run: RunFolder | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> str:
    """The HTML file's text.

    Args:
        cfg: what the results were made with, if known.
        run: its folder, if known.
        progress: is told what is done next.

    Raises:
        DataError: annotations and results cannot be evaluated.
    """
    findings, ranking = find_out(truth, results, options, run, progress)
    progress("Drawing pictures")
    reason = _no_pictures(truth, options)
    best, worst = ranking.draw(truth) if reason is None else (Drawn(), Drawn())
    made_at = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    sections = [
        summary_section(findings),
        precision_section(findings),
        class_section(findings),
        curve_section(findings),
        score_section(findings),
        error_section(findings),
        picture_section(best, worst, reason),
        data_section(findings),
        run_section(
            run_time=findings.run_time,
            training=read_training(run.metrics) if run and run.metrics else ({}, {}),
            cfg=cfg,
            command=options.command,
            made_at=made_at,
        ),
    ]
    model = f"{cfg.MODEL.META_ARCHITECTURE} on " if cfg is not None else ""
    return page(
        f"{model}{truth.name}",
        sections,
        subtitle=f"Evaluation of {results.path}, written {modified(results.path)}",
        footer=f"Made by instseg-d2 on {made_at}. This file is complete in itself.",
    )


def find_out(
    truth: Truth,
    results: Results,
    options: ReportOptions,
    run: RunFolder | None,
    progress: Callable[[str], None],
) -> tuple[Findings, Ranking]:
    """Compute everything."""
    figures, remarks = evaluate(truth, results, boundary=options.boundary, progress=progress)
    progress("Matching detections and objects")
    statistics = Statistics(len(truth.names), options.min_score)
    ranking = Ranking(options.num_pictures, options.min_score)
    for image in match_images(truth, results):
        statistics.add(image)
        ranking.add(image)
    if not statistics.objects.sum():
        remarks.append("The annotations have no objects, so there is nothing to be found.")
    findings = Findings(
        truth=truth,
        results=results,
        figures=figures,
        statistics=statistics,
        run_time=read_run_time(run.log) if run and run.log else None,
        remarks=[*results.remarks, *remarks],
    )
    return findings, ranking


def _no_pictures(truth: Truth, options: ReportOptions) -> str | None:
    if not options.num_pictures:
        return "This report was made without pictures."
    if truth.image_root is None:
        return "The folder of the images is not known, so there are no pictures; --images names it."
    return None
