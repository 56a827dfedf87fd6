"""The sections of a report that say what was evaluated, with what and how fast."""

from __future__ import annotations

import importlib.metadata
import platform

import numpy as np
from detectron2.config import CfgNode
from markupsafe import Markup

from .. import __version__
from ..html_page import (
    Section,
    charts,
    folded,
    heading,
    join,
    number,
    paragraph,
    preformatted,
    table,
)
from ..svg_charts import Axis, Curve, line_chart
from ..training_curves import Series
from .run_folder import RunTime, config_changes, thinned
from .score_sections import Findings, Row

PACKAGES = ("torch", "torchvision", "detectron2", "faster-coco-eval", "pycocotools", "numpy")


def data_section(findings: Findings) -> Section:
    """Facts about the data set."""
    truth, statistics = findings.truth, findings.statistics
    images = list(truth.images.values())
    objects = int(statistics.objects.sum())
    rows: list[Row] = [
        ("Images", f"{len(images):,}"),
        ("Images without objects", f"{statistics.empty_images:,}"),
        ("Objects", f"{objects:,}"),
        ("Objects of an image, on average", f"{objects / max(len(images), 1):.1f}"),
        ("Most objects of an image", f"{max(map(len, truth.objects.values()), default=0):,}"),
        ("Crowds, which are not to be found", f"{statistics.crowds:,}"),
        ("Classes, those with objects", f"{len(truth.names)}, {(statistics.objects > 0).sum()}"),
        (
            f"Images without detections of at least {statistics.min_score:g}",
            f"{statistics.images_without_detections:,}",
        ),
    ]
    if images:
        sides = np.array([(image["width"], image["height"]) for image in images])
        low, middle, high = (
            " × ".join(f"{side:.0f}" for side in f(sides)) for f in (_low, _middle, _high)
        )
        rows.append(("Width × height: least, median, most", f"{low}, {middle}, {high}"))
    rows.append(("Data set", truth.name))
    rows.append(("Results", findings.results.path))
    return Section("Data", table(["Fact", "Value"], rows, caption="What was evaluated on"))


def _low(sides: np.ndarray) -> np.ndarray:
    return sides.min(axis=0)


def _middle(sides: np.ndarray) -> np.ndarray:
    return np.median(sides, axis=0)


def _high(sides: np.ndarray) -> np.ndarray:
    return sides.max(axis=0)


def run_section(
    *,
    run_time: RunTime | None,
    training: tuple[dict[str, Series], dict[str, Series]],
    cfg: CfgNode | None,
    command: str,
    made_at: str,
) -> Section:
    """Run time, training, config, versions.

    Args:
        training: losses and AP by name, see :func:`.run_folder.read_training`.
        cfg: what the run was made with, if that is known.
        command: that made this report.
        made_at: when that was.
    """
    parts = [_times(run_time), _training(*training), _config(cfg)]
    rows: list[Row] = [("instseg-d2", __version__), ("Python", platform.python_version())]
    for name in PACKAGES:
        try:
            rows.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            rows.append((name, "not installed"))
    rows.append(("System", f"{platform.system()} {platform.machine()}"))
    rows.append(("Report made", made_at))
    versions = table(["What", "Version"], rows, caption="Where this report was made")
    parts += [folded("Versions", versions), heading("Made by"), preformatted(command, wrap=True)]
    return Section("Run", join(parts))


def _times(run_time: RunTime | None) -> Markup:
    if run_time is None:
        return Markup("")
    rows: list[Row] = [
        ("All: loading, the model, encoding of masks", number(1000 * run_time.total, 1))
    ]
    if run_time.network is not None:
        rows.insert(0, ("The model with its masks", number(1000 * run_time.network, 1)))
    many = f", on {run_time.devices} devices" if run_time.devices > 1 else ""
    caption = f"Run time of the last evaluation in log.txt{many}; an iteration is one batch"
    return table(["Part", "ms per iteration"], rows, caption=caption)


def _training(losses: dict[str, Series], precisions: dict[str, Series]) -> Markup:
    figures = []
    for title, series, label in (
        ("Training loss", losses, "loss"),
        ("AP of masks on validation data", precisions, "AP"),
    ):
        known = {name: thinned(points) for name, points in series.items() if len(points[0])}
        if not known:
            continue
        last = max(points[0].max() for points in known.values())
        values = np.concatenate([points[1] for points in known.values()])
        # The first iterations may be so high that nothing else could be seen.
        top = 1.1 * float(np.quantile(values, 0.98))
        curves = [
            Curve(_curve_name(name), *points, dots=len(points[0]) < 20)
            for name, points in known.items()
        ]
        figures.append(
            line_chart(
                curves, Axis("iteration", 0, max(float(last), 1.0)),
                Axis(label, 0, max(top, 1e-6)), title=title,
            )
        )  # fmt: skip
    return join([heading("Training"), charts(figures)]) if figures else Markup("")


def _curve_name(key: str) -> str:
    return key.removeprefix("loss_").removesuffix("segm/AP").rstrip("/") or "AP"


def _config(cfg: CfgNode | None) -> Markup:
    if cfg is None:
        return paragraph(
            "The config is not known; --run OUTPUT_DIR or --config-file adds it here.", soft=True
        )
    rows = config_changes(cfg)
    changes = table(["Key", "Value", "Default"], rows, caption="What differs from the defaults")
    return join(
        [
            heading("Config"),
            folded(f"{len(rows)} values that differ from the defaults", changes),
            folded("The whole config", preformatted(cfg.dump())),
        ]
    )
