"""The best checkpoint and early stopping, with evaluations that give what the test wants."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.engine import SimpleTrainer, hooks

from instseg_d2.checkpoint import InstSegCheckpointer
from instseg_d2.config import load_config
from instseg_d2.engine.selection import (
    EndableLoop,
    EndAtMaxIter,
    EvalAfterStep,
    Selection,
    check_selection,
)
from instseg_d2.errors import ConfigError
from tests.small_model import Model

METRIC = ["TEST.BEST.METRIC", "segm/AP", "DATASETS.TEST", "('a',)", "TEST.EVAL_PERIOD", "2"]


class Loop(SimpleTrainer, EndableLoop):
    """Detectron2's simple loop with our hooks, as the trainer has them."""

    def __init__(self, folder: Path, values: list[float], overrides: list[str]) -> None:
        model = Model()
        super().__init__(model, [torch.ones(1, 4)] * 99, torch.optim.SGD(model.parameters(), 0.1))
        cfg = load_config("", [*METRIC, *overrides])
        self.evaluations: list[int] = []
        self.checkpointer = InstSegCheckpointer(model, str(folder), trainer=self)
        periodic = hooks.PeriodicCheckpointer(self.checkpointer, 4)
        self.selection = Selection(cfg, self.checkpointer, periodic, lambda: self.results)

        def evaluate() -> dict[str, Any]:
            self.evaluations.append(self.iter)
            value = values[min(len(self.evaluations), len(values)) - 1]
            self.results = {"segm": {"AP": value}, "bbox": {"AP": 1.0}}
            return self.results

        self.register_hooks([periodic, EvalAfterStep(2, evaluate), self.selection, EndAtMaxIter()])

    def run(self, max_iter: int, resume: bool = False) -> None:
        start = 0
        if resume:
            self.checkpointer.resume_or_load("", resume=True)
            start = self.iter + 1
        self.train(start, max_iter)


def best_of(folder: Path) -> tuple[int, float]:
    content = torch.load(folder / "model_best.pth", weights_only=True)
    return content["iteration"], content["best"]["segm/AP"]


@pytest.mark.parametrize(("mode", "best"), [("max", (3, 5.0)), ("min", (7, 1.0))])
def test_the_best_is_kept(tmp_path: Path, mode: str, best: tuple[int, float]) -> None:
    """Evaluations are after the iterations 1, 3, 5, 7, and the last."""
    loop = Loop(tmp_path, [2.0, 5.0, 5.0, 1.0, 3.0], ["TEST.BEST.MODE", mode])
    loop.run(9)
    assert loop.evaluations == [1, 3, 5, 7, 8]
    assert best_of(tmp_path) == best
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"


def test_patience_ends_the_training_as_at_its_last_iteration(tmp_path: Path) -> None:
    loop = Loop(tmp_path, [2.0, 1.0, 2.0], ["TEST.EARLY_STOPPING.PATIENCE", "2"])
    loop.run(90)
    assert loop.evaluations == [1, 3, 5]  # and no other of the same weights
    assert loop.iter == loop.max_iter == 6
    final = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert final["iteration"] == 5
    assert best_of(tmp_path) == (1, 2.0)


def test_what_is_not_much_better_counts_as_no_improvement_but_is_kept(tmp_path: Path) -> None:
    overrides = ["TEST.EARLY_STOPPING.PATIENCE", "2", "TEST.EARLY_STOPPING.MIN_DELTA", "0.5"]
    loop = Loop(tmp_path, [2.0, 2.3, 2.6, 2.7, 2.8, 9.0], overrides)
    loop.run(90)
    assert loop.evaluations == [1, 3, 5, 7, 9]  # 2.6 is 0.6 above 2.0; 2.8 is 0.2 above 2.6
    assert best_of(tmp_path) == (9, 2.8)


def test_nan_is_neither_best_nor_an_improvement(tmp_path: Path) -> None:
    nan = math.nan
    loop = Loop(tmp_path, [nan, nan, 1.0, nan, nan, nan], ["TEST.EARLY_STOPPING.PATIENCE", "3"])
    loop.run(90)
    assert loop.evaluations == [1, 3, 5, 7, 9, 11]
    assert best_of(tmp_path) == (5, 1.0)


def test_without_any_finite_value_no_file_is_written(tmp_path: Path) -> None:
    Loop(tmp_path, [math.nan], []).run(3)
    assert not (tmp_path / "model_best.pth").exists()


@pytest.mark.parametrize("first", [4, 8])
def test_a_resumed_training_counts_on(tmp_path: Path, first: int) -> None:
    """The checkpoint of an iteration knows of the evaluation after it: 3.0 at 1, then four worse
    ones, whether it was the last of its run or not."""
    overrides = ["TEST.EARLY_STOPPING.PATIENCE", "4"]
    values = [3.0, 1.0, 1.5, 2.0, 2.5]
    Loop(tmp_path, values, overrides).run(first)
    loop = Loop(tmp_path, values[first // 2 :], overrides)
    loop.run(90, resume=True)
    assert loop.iter == 10
    assert loop.selection.num_stale == 4
    assert best_of(tmp_path) == (1, 3.0)


def test_a_training_that_was_ended_says_so_when_it_is_resumed(tmp_path: Path) -> None:
    overrides = ["TEST.EARLY_STOPPING.PATIENCE", "1"]
    Loop(tmp_path, [3.0, 1.0], overrides).run(90)
    loop = Loop(tmp_path, [1.0], overrides)
    loop.checkpointer.resume_or_load("", resume=True)
    assert loop.selection.is_over
    patient = Loop(tmp_path, [1.0], ["TEST.EARLY_STOPPING.PATIENCE", "2"])
    patient.checkpointer.resume_or_load("", resume=True)
    assert not patient.selection.is_over


def test_another_metric_starts_anew(tmp_path: Path) -> None:
    Loop(tmp_path, [30.0], []).run(4)
    loop = Loop(tmp_path, [1.0], ["TEST.BEST.METRIC", "bbox/AP"])
    loop.run(8, resume=True)
    content = torch.load(tmp_path / "model_best.pth", weights_only=True)
    assert content["best"] == {"bbox/AP": 1.0}


def test_an_unknown_metric_is_answered_with_those_that_exist(tmp_path: Path) -> None:
    loop = Loop(tmp_path, [1.0], ["TEST.BEST.METRIC", "segm/ap"])
    with pytest.raises(ConfigError, match="segm/ap, but the evaluation gives bbox/AP, segm/AP"):
        loop.run(4)


def test_the_ap_of_a_class_may_be_absent_where_nothing_was_found(tmp_path: Path) -> None:
    loop = Loop(tmp_path, [math.nan, 1.0], ["TEST.BEST.METRIC", "segm/AP-cat"])
    with pytest.raises(ConfigError, match="segm/AP-cat, but the evaluation gives bbox/AP, segm/AP"):
        loop.run(8)
    assert loop.evaluations == [1, 3]
    assert loop.selection.num_stale == 1


PATIENT = ["TEST.EARLY_STOPPING.PATIENCE", "2"]
SLIPS = {
    "mode": (["TEST.BEST.MODE", "best"], "known are max and min"),
    "no metric": (
        [*PATIENT, "TEST.BEST.METRIC", ""],
        "TEST.BEST.METRIC",
    ),
    "no evaluation": (
        [*PATIENT, "TEST.EVAL_PERIOD", "0"],
        "EVAL_PERIOD",
    ),
    "negative": (["TEST.EARLY_STOPPING.PATIENCE", "-1"], "negative"),
    "nothing to evaluate on": (["DATASETS.TEST", "()"], "DATASETS.TEST is empty"),
    "no task": (["TEST.BEST.METRIC", "AP"], "such as segm/AP"),
    "no test set": (["DATASETS.TEST", "('a', 'b')"], "such as a/segm/AP"),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_slips_are_found_before_the_training(slip: str) -> None:
    overrides, hint = SLIPS[slip]
    with pytest.raises(ConfigError, match=hint):
        check_selection(load_config("", [*METRIC, *overrides]))


def test_without_a_metric_nothing_is_asked() -> None:
    check_selection(load_config("", []))
