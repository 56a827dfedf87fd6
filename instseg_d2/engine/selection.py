"""The best checkpoint by a metric, and the end of a training that no longer improves.

Detectron2's ``BestCheckpointer`` forgets the best value when a training is resumed, makes
``--resume`` go on from the best checkpoint rather than from the last, and cannot end a training.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import HookBase, TrainerBase, hooks
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm

from ..checkpoint import InstSegCheckpointer
from ..errors import ConfigError

MODES = ("max", "min")
BEST_NAME = "model_best"

logger = logging.getLogger(__name__)


def check_selection(cfg: CfgNode) -> None:
    """See that ``TEST.BEST`` and ``TEST.EARLY_STOPPING`` can be followed.

    Raises:
        ConfigError: they cannot; for a metric that does not exist see :mod:`.known_metrics`.
    """
    metric, sets = cfg.TEST.BEST.METRIC, cfg.DATASETS.TEST
    patience, min_delta = cfg.TEST.EARLY_STOPPING.PATIENCE, cfg.TEST.EARLY_STOPPING.MIN_DELTA
    if cfg.TEST.BEST.MODE not in MODES:
        raise ConfigError(f"TEST.BEST.MODE is {cfg.TEST.BEST.MODE!r}; known are max and min")
    if patience < 0 or min_delta < 0:
        raise ConfigError(
            f"TEST.EARLY_STOPPING.PATIENCE is {patience} and MIN_DELTA {min_delta}; neither may be "
            "negative"
        )
    if patience and not metric:
        raise ConfigError(
            "TEST.EARLY_STOPPING.PATIENCE needs a metric to wait for: set TEST.BEST.METRIC, for "
            "example to segm/AP"
        )
    if patience and cfg.TEST.EVAL_PERIOD < 1:
        raise ConfigError(
            "TEST.EARLY_STOPPING.PATIENCE counts evaluations, but TEST.EVAL_PERIOD is "
            f"{cfg.TEST.EVAL_PERIOD}: there is none in the course of the training"
        )
    if not metric:
        return
    if not sets:
        raise ConfigError(f"TEST.BEST.METRIC is {metric}, but DATASETS.TEST is empty")
    example = f"{sets[0]}/segm/AP" if len(sets) > 1 else "segm/AP"
    if "/" not in metric or (len(sets) > 1 and metric.split("/")[0] not in sets):
        raise ConfigError(f"TEST.BEST.METRIC is {metric!r}; a name such as {example} is wanted")


class Selection(HookBase):
    """Saves the weights that are best by a metric, and ends the training when patience is over.

    It comes right after the evaluation, and saves the checkpoint of that iteration once more, so
    that a training that is resumed from there knows of the evaluation.
    """

    def __init__(
        self,
        cfg: CfgNode,
        checkpointer: InstSegCheckpointer,
        periodic: hooks.PeriodicCheckpointer | None,
        results: Callable[[], dict[str, Any]],
    ) -> None:
        """
        Args:
            cfg: see :func:`check_selection`.
            checkpointer: saves the best weights.
            periodic: the hook that saves checkpoints; None in processes that save none.
            results: what the last evaluation gave, in the main process; others are told.
        """
        self._metric: str = cfg.TEST.BEST.METRIC
        self._sign = 1 if cfg.TEST.BEST.MODE == "max" else -1
        self._patience: int = cfg.TEST.EARLY_STOPPING.PATIENCE
        self._min_delta: float = cfg.TEST.EARLY_STOPPING.MIN_DELTA
        self._period: int = cfg.TEST.EVAL_PERIOD
        self._checkpointer = checkpointer
        self._periodic = periodic
        self._results = results
        self.best: float | None = None
        self.best_iteration: int | None = None
        self.num_stale = 0  # evaluations in a row without improvement
        self._to_beat: float | None = None

    @property
    def is_over(self) -> bool:
        """Whether patience has come to its end."""
        return 0 < self._patience <= self.num_stale

    def after_step(self) -> None:
        trainer = self.trainer
        if not is_due(trainer.iter, trainer.max_iter, self._period):
            return
        self.consider(self._value(), trainer.iter)
        if self.is_over and trainer.iter + 1 < trainer.max_iter:
            logger.info(
                "Early stopping: %s has not improved in %d evaluations (best: %s, iteration %s).",
                self._metric, self.num_stale, self.best, self.best_iteration,
            )  # fmt: skip
            trainer.max_iter = trainer.iter + 1
        if self._periodic is not None:
            self._periodic.max_iter = trainer.max_iter
            self._periodic.step(trainer.iter)

    def consider(self, value: float, iteration: int) -> None:
        """Take note of the metric's value; save the weights if it is the best so far.

        A value that is not finite, as of an evaluation without predictions, is no improvement.
        """
        if not math.isfinite(value):
            logger.warning("%s is %s: not counted as an improvement.", self._metric, value)
            self.num_stale += 1
            return
        if self.best is None or self._sign * value > self._sign * self.best:
            logger.info("%s is %.4f, the best so far.", self._metric, value)
            self.best, self.best_iteration = value, iteration
            self._checkpointer.save_weights(
                BEST_NAME, iteration=iteration, best={self._metric: value}
            )
        if self._to_beat is None or self._sign * (value - self._to_beat) > self._min_delta:
            self._to_beat, self.num_stale = value, 0
        else:
            self.num_stale += 1

    def _value(self) -> float:
        """The metric, the same in all processes.

        Raises:
            ConfigError: the evaluation has no such metric.
        """
        metrics = flatten_results_dict(self._results()) if comm.is_main_process() else {}
        metrics = comm.all_gather(metrics)[0]
        of_all, of_class, _ = self._metric.partition("/AP-")
        if of_class and math.isnan(metrics.get(f"{of_all}/AP", 0.0)):
            return math.nan  # where nothing was found COCO's evaluation does not name the classes
        if self._metric not in metrics:
            known = ", ".join(sorted(metrics)) or "nothing"
            raise ConfigError(
                f"TEST.BEST.METRIC is {self._metric}, but the evaluation gives {known}"
            )
        return float(metrics[self._metric])

    def state_dict(self) -> dict[str, Any]:
        return {
            "metric": self._metric,
            "best": self.best,
            "best_iteration": self.best_iteration,
            "num_stale": self.num_stale,
            "to_beat": self._to_beat,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["metric"] != self._metric:
            logger.warning(
                "The checkpoint is of a training with TEST.BEST.METRIC %s: %s starts anew.",
                state["metric"], self._metric,
            )  # fmt: skip
            return
        self.best, self.best_iteration = state["best"], state["best_iteration"]
        self.num_stale, self._to_beat = state["num_stale"], state["to_beat"]


def is_due(iteration: int, max_iter: int, period: int) -> bool:
    """Whether there is an evaluation after this iteration: every period, and at the end."""
    return iteration + 1 == max_iter or (period > 0 and (iteration + 1) % period == 0)


class EvalUnlessFailed(hooks.EvalHook):
    """Detectron2's hook, which evaluates at the end of a training even if its last step has failed:
    after that, other processes would not take part."""

    def after_train(self) -> None:
        if self.trainer.iter < self.trainer.max_iter:
            self._eval_after_train = False
        super().after_train()


class EvalAfterStep(EvalUnlessFailed):
    """Detectron2's hook, but the last evaluation is after the last step, as the others are, and not
    after the training: what follows from it can be part of the last checkpoint."""

    def after_step(self) -> None:
        if is_due(self.trainer.iter, self.trainer.max_iter, self._period):
            self._do_eval()
            self._last = self.trainer.iter + 1

    def after_train(self) -> None:
        """Evaluates only where no step was left to take, as when a finished training is resumed."""
        if getattr(self, "_last", None) == self.trainer.iter:
            self._eval_after_train = False
        super().after_train()


class _Ended(BaseException):
    """Leaves Detectron2's loop, which would log any ``Exception`` as a failure."""


class EndAtMaxIter(HookBase):
    """The last hook: ends the loop where another one has lowered ``max_iter`` of the trainer."""

    def before_train(self) -> None:
        self._planned = self.trainer.max_iter

    def after_step(self) -> None:
        if self.trainer.iter + 1 == self.trainer.max_iter < self._planned:
            self.trainer.iter += 1  # as after a loop that came to its end
            raise _Ended


class EndableLoop(TrainerBase):
    """Detectron2's loop, which :class:`EndAtMaxIter` can end."""

    def train(self, *iterations: int) -> Any:
        """
        Args:
            iterations: the first one, and the one before which to end.
        """
        with contextlib.suppress(_Ended):
            super().train(*iterations)
