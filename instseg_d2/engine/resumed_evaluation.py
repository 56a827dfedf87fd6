"""An evaluation that goes on where an earlier one, of the same model and images, was ended.

Predictions are noted in ``OUTPUT_DIR/inference/NAME.rank0.part`` (each process has a file) until
the data set is evaluated. What an earlier run has noted counts only if weights, config and code are
the same, and of an image only if its file is.
"""

from __future__ import annotations

import contextlib
import logging
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data.samplers import InferenceSampler
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset, print_csv_format
from detectron2.utils import comm
from torch import nn
from torch.utils.data import DataLoader, Subset

from ..coco_evaluator import FastCOCOEvaluator
from ..data.checks import load_registered
from ..part_file import PartFile, entries_of, file_stamp
from ..run_settings import Settings, settings_of_model
from .trainer import Trainer

logger = logging.getLogger(__name__)

OTHER_KEYS = ("DATASETS.TEST", "TEST.RESUME_INFERENCE")
"""Of a config: what makes no difference to the predictions for one data set."""


def evaluate_resumably(cfg: CfgNode, model: nn.Module) -> dict[str, Any]:
    """Evaluate on ``DATASETS.TEST``, as ``Trainer.test`` does.

    Data sets in COCO's or LVIS's format are gone on with, if ``TEST.RESUME_INFERENCE``.

    Args:
        model: in eval mode, with its weights.

    Returns:
        ``{task: {metric: value}}``; of several data sets such a dict for each name.

    Raises:
        DataError: an image cannot be read. What was predicted before stays noted.
        ConfigError: another process is evaluating in the same folder.
    """
    settings = settings_of_model(cfg, model, without=OTHER_KEYS)
    results: dict[str, Any] = OrderedDict()
    for name in cfg.DATASETS.TEST:
        loader = Trainer.build_test_loader(cfg, name)
        evaluator = Trainer.build_evaluator(cfg, name)
        if is_resumable(cfg, evaluator):
            found = _go_on(cfg, model, loader, evaluator, name, settings)
        else:
            found = inference_on_dataset(model, loader, evaluator)
        results[name] = found
        if comm.is_main_process():
            logger.info("Evaluation results for %s in csv format:", name)
            print_csv_format(found)
    return results if len(results) > 1 else results[cfg.DATASETS.TEST[0]]


def is_resumable(cfg: CfgNode, evaluator: DatasetEvaluator) -> bool:
    """Whether predictions for this evaluator are noted."""
    return cfg.TEST.RESUME_INFERENCE and isinstance(evaluator, FastCOCOEvaluator)


def _go_on(
    cfg: CfgNode,
    model: nn.Module,
    loader: Any,
    evaluator: FastCOCOEvaluator,
    name: str,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Evaluate on one data set."""
    records = load_registered(name)
    image_ids = [record["image_id"] for record in records]
    is_told_apart = len(set(image_ids)) == len(image_ids) == len(loader.dataset)
    if not is_told_apart:
        return inference_on_dataset(model, loader, evaluator)
    stamps = {record["image_id"]: file_stamp(record["file_name"]) for record in records}
    proposals = [file_stamp(path) for path in cfg.DATASETS.PROPOSAL_FILES_TEST]
    depends_on = Settings({**settings, "data set": name, "proposal files": proposals})
    parts = _Parts(Path(cfg.OUTPUT_DIR) / "inference", name, depends_on, stamps)
    with parts.own, _saying_what_is_noted(parts):
        before = list(parts.before.values()) if comm.is_main_process() else []
        evaluator.go_on(before, image_ids, parts.keep)
        rest = [place for place, key in enumerate(image_ids) if key not in parts.before]
        if parts.before:
            logger.warning(
                "%s: an earlier run with the same weights and config, which did not end, predicted "
                "%d of the %d images. Going on with the others; "
                "TEST.RESUME_INFERENCE False predicts all anew.",
                name,
                len(parts.before),
                len(image_ids),
            )
        found = _evaluate_on(model, loader, evaluator, rest)
        comm.synchronize()
        parts.remove()
    return found


@contextlib.contextmanager
def _saying_what_is_noted(parts: _Parts) -> Iterator[None]:
    try:
        yield
    except BaseException:
        logger.warning(
            "%d predictions are noted in %s; the same command goes on from there.",
            len(parts.own),
            parts.own.path,
        )
        raise


def _evaluate_on(
    model: nn.Module, loader: Any, evaluator: DatasetEvaluator, places: list[int]
) -> dict[str, Any]:
    """Predict the images at some places of a loader's data set, and evaluate."""
    if not places:
        evaluator.reset()
        return evaluator.evaluate() or {}
    if len(places) < len(loader.dataset):
        loader = DataLoader(
            Subset(loader.dataset, places),
            batch_size=loader.batch_size,
            sampler=InferenceSampler(len(places)),
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
        )
    return inference_on_dataset(model, loader, evaluator)


class _Parts:
    """What all processes of this run and of an earlier one have noted of a data set.

    Attributes:
        own: the file of this process.
        before: image id -> prediction of the earlier run.
    """

    def __init__(self, folder: Path, name: str, settings: Settings, stamps: dict[Any, Any]) -> None:
        """
        Args:
            folder: made if need be.
            name: of the data set.
            settings: what predictions depend on.
            stamps: image id -> what is another one if the image's file changes.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._stem, self._stamps = folder, name.replace("/", "_"), stamps
        self.own = PartFile(folder / f"{self._stem}.rank{comm.get_rank()}.part", settings)
        if self.own.differences:
            logger.warning(
                "%s: what an earlier run, which did not end, has predicted does not count. Then "
                "and now:\n  %s",
                name,
                "\n  ".join(self.own.differences),
            )
        comm.synchronize()  # before others read this file
        self.before = {
            key: entry["prediction"]
            for path in self._files()
            for key, entry in entries_of(path, settings)
            if entry["stamp"] == stamps.get(key)
        }
        comm.synchronize()  # before anything is added

    def keep(self, prediction: dict[str, Any]) -> None:
        """Note what was predicted of an image."""
        image_id = prediction["image_id"]
        self.own.add(image_id, {"stamp": self._stamps[image_id], "prediction": prediction})

    def remove(self) -> None:
        """Everything is evaluated: the main process removes all files."""
        if comm.is_main_process():
            for path in self._files():
                path.unlink()

    def _files(self) -> list[Path]:
        """Of all processes; an earlier run may have had more."""
        return sorted(
            path
            for path in self._folder.glob("*.part")
            if path.name.startswith(f"{self._stem}.rank")
        )
