"""What a run left in its OUTPUT_DIR: config, results, log, training curves. All but the results may
be absent."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode

from ..coco_evaluator import RESULTS_FILE
from ..config import get_cfg
from ..errors import DataError
from ..training_curves import Series, losses_and_precisions


@dataclass(frozen=True)
class RunFolder:
    """The files of a run; None for those that are absent."""

    path: Path
    config: Path | None
    results: Path | None
    metrics: Path | None
    log: Path | None


def find_run(path: Path) -> RunFolder:
    """Look into an OUTPUT_DIR.

    Raises:
        DataError: there is no such folder.
    """
    if not path.is_dir():
        raise DataError(f"--run {path}: there is no such folder; give the OUTPUT_DIR of a run")

    def there(name: str) -> Path | None:
        return path / name if (path / name).is_file() else None

    return RunFolder(
        path=path,
        config=there("config.yaml"),
        results=there(f"inference/{RESULTS_FILE}"),
        metrics=there("metrics.json"),
        log=there("log.txt"),
    )


@dataclass(frozen=True)
class RunTime:
    """Of the last evaluation in a log: seconds for an image, and devices.

    Attributes:
        total: all of it, loading and encoding included.
        network: the model alone; None if the log does not say.
        devices: that worked at the same time.
    """

    total: float
    network: float | None
    devices: int


_TIME = re.compile(
    r"Total inference (pure compute )?time: [^(]*\(([0-9.eE+-]+) s / iter per device, "
    r"on (\d+) devices\)"
)


def read_run_time(log: Path) -> RunTime | None:
    """The run time of the last evaluation; None if there is none."""
    total = network = None
    devices = 1
    for match in _TIME.finditer(log.read_text(encoding="utf-8", errors="replace")):
        seconds, devices = float(match.group(2)), int(match.group(3))
        if match.group(1):
            network = seconds
        else:
            total, network = seconds, None
    return None if total is None else RunTime(total, network, devices)


def read_training(metrics: Path) -> tuple[dict[str, Series], dict[str, Series]]:
    """Losses, the total first, and AP of masks on validation data, by name; none of either from a
    file that cannot be read."""
    try:
        losses, precisions = losses_and_precisions(str(metrics))
    except DataError:
        return {}, {}
    order = sorted(losses, key=lambda key: (key != "total_loss", key))
    return {key: losses[key] for key in order}, precisions


def thinned(series: Series, points: int = 200) -> Series:
    """At most ``points`` of a curve, each the mean of its neighbours."""
    iterations, values = series
    if len(values) <= points:
        return series
    parts = np.array_split(np.arange(len(values)), points)
    return (
        np.array([iterations[part].mean() for part in parts]),
        np.array([values[part].mean() for part in parts]),
    )


def config_changes(cfg: CfgNode) -> list[tuple[str, str, str]]:
    """(key, value, default) of everything that differs from the defaults."""
    defaults = dict(_flat(get_cfg()))
    return [
        (key, repr(value), repr(defaults.get(key)))
        for key, value in _flat(cfg)
        if key not in defaults or defaults[key] != value
    ]


def _flat(node: CfgNode, prefix: str = "") -> list[tuple[str, object]]:
    pairs: list[tuple[str, object]] = []
    for key in sorted(node):
        value = node[key]
        if isinstance(value, CfgNode):
            pairs += _flat(value, f"{prefix}{key}.")
        else:
            pairs.append((prefix + key, value))
    return pairs


def modified(path: Path | str) -> str:
    """When a file was written, for people."""
    moment = datetime.datetime.fromtimestamp(Path(path).stat().st_mtime)
    return moment.strftime("%Y-%m-%d %H:%M")
