"""Detectron2's ``DefaultTrainer`` for the model families of this project."""

import inspect
import logging
import weakref
from collections.abc import Iterable
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.engine import DefaultTrainer, HookBase, hooks
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from ..atomic_file import remove_leftovers
from ..checkpoint import InstSegCheckpointer, LoadOptions
from ..class_order import class_names
from ..data.training_loader import build_training_loader
from ..ema import WeightAverage
from ..evaluation import build_evaluator
from ..families import family_of
from ..modeling import amp_dtype, build_model, check_training
from ..signals import outlive_one_signal
from ..solver import build_lr_scheduler, build_optimizer
from .accumulation import AccumulatingTrainer, SplitBatches
from .amp import MixedPrecisionTrainer
from .averaging import AverageWeights, check_averaging
from .datasets import (
    check_proposal_files,
    check_test_datasets,
    checked_test_loader,
    load_dataset,
    names_datasets,
    to_learn_from,
    training_dicts,
)
from .exact_resume import ExactResume
from .gradient_norm import GradientNorm
from .known_metrics import check_best_metric
from .nonfinite import StepGuard, check_nonfinite
from .pictures import DrawBatches
from .progress import ProgressBar
from .run_report import log_schedule
from .selection import (
    EndableLoop,
    EndAtMaxIter,
    EvalAfterStep,
    EvalUnlessFailed,
    Selection,
    check_selection,
)
from .stop_signals import StopOnSignal

logger = logging.getLogger(__name__)


class Trainer(DefaultTrainer, EndableLoop):
    """Trains and evaluates by a config; the data is checked before the first iteration."""

    _num_images = 0  # of the training loader that was built last
    max_iter: int
    checkpointer: InstSegCheckpointer
    _gradient_norm: GradientNorm

    def __init__(self, cfg: CfgNode, progress_bar: bool = False) -> None:
        """
        Args:
            cfg: a frozen config; see :func:`instseg_d2.engine.setup`.
            progress_bar: show one on stderr.

        Raises:
            UserError: of the config or the data; its message says what to do.
        """
        self._progress_bar = progress_bar
        check_training(cfg, comm.get_world_size())
        check_averaging(cfg)
        check_selection(cfg)
        check_nonfinite(cfg)
        check_test_datasets(cfg)
        if self._evaluates_as_usual():
            check_best_metric(cfg)
        # Not DefaultTrainer's, whose processes and loop for mixed precision are for CUDA alone.
        super(DefaultTrainer, self).__init__()
        if not logging.getLogger("detectron2").isEnabledFor(logging.INFO):
            setup_logger()
        self.cfg = cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        data_loader = self.build_train_loader(cfg)
        log_schedule(cfg, self._num_images)
        self._trainer = self._build_loop(exchanging_gradients(model), data_loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.start_iter, self.max_iter = 0, cfg.SOLVER.MAX_ITER
        self.register_hooks(self.build_hooks())
        # After it was registered with this trainer: it reads the one it has last.
        self._trainer.register_hooks([self._gradient_norm])

    @classmethod
    def _evaluates_as_usual(cls) -> bool:
        """Whether this is no derived class that evaluates in its own way."""
        return all(
            inspect.getattr_static(cls, name) is inspect.getattr_static(Trainer, name)
            for name in ("build_evaluator", "evaluate", "test")
        )

    def _build_loop(
        self,
        model: nn.Module,
        data_loader: Iterable[list[dict[str, Any]]],
        optimizer: torch.optim.Optimizer,
    ) -> MixedPrecisionTrainer:
        """What takes the steps, in mixed precision or not."""
        cfg = self.cfg
        num_batches, is_mixed = cfg.SOLVER.ACCUMULATE_STEPS, cfg.SOLVER.AMP.ENABLED
        args = (model, data_loader, optimizer)
        kwargs: dict[str, Any] = {
            "device_type": torch.device(cfg.MODEL.DEVICE).type,
            "dtype": amp_dtype(cfg) if is_mixed else torch.float32,
        }
        if num_batches == 1:
            loop = MixedPrecisionTrainer(*args, **kwargs)
        else:
            loop = AccumulatingTrainer(*args, num_batches=num_batches, **kwargs)
        loop.guard = StepGuard(
            model,
            optimizer,
            action=cfg.SOLVER.ON_NONFINITE,
            max_skips=cfg.SOLVER.MAX_NONFINITE_SKIPS,
            output_dir=cfg.OUTPUT_DIR,
            config=cfg.dump(),
            precision=loop.dtype,
            grad_scaler=loop.grad_scaler,
        )
        return loop

    def build_hooks(self) -> list[HookBase | None]:
        cfg = self.cfg
        is_wrapped = isinstance(self.model, DistributedDataParallel)
        model = self.model.module if is_wrapped else self.model
        self._ema = WeightAverage(model, cfg.MODEL.EMA.DECAY) if cfg.MODEL.EMA.ENABLED else None
        self.checkpointer = InstSegCheckpointer(
            self.model,
            cfg.OUTPUT_DIR,
            options=LoadOptions.from_config(cfg),
            ema=self._ema,
            classes=class_names(cfg, cfg.DATASETS.TRAIN),
            trainer=weakref.proxy(self),
        )
        self._gradient_norm = GradientNorm()
        self._selection: Selection | None = None
        defaults = super().build_hooks()
        first: list[HookBase] = [ExactResume(cfg, defaults), self._gradient_norm]
        if self._progress_bar:
            first.insert(0, ProgressBar())  # closes before the evaluation prints
        if self._ema is not None:
            first.append(AverageWeights(self._ema))  # before the weights are saved or evaluated
        return [*first, *self._with_evaluation(defaults)]

    def _with_evaluation(self, defaults: list[HookBase | None]) -> list[HookBase | None]:
        """DefaultTrainer's hooks, with our evaluation in the place of theirs."""
        cfg, this = self.cfg, weakref.proxy(self)
        place = next(i for i, hook in enumerate(defaults) if isinstance(hook, hooks.EvalHook))
        family = family_of(cfg)
        if cfg.VIS_PERIOD > 0 and family is not None and family.draw_batch is not None:
            model = self.checkpointer.model
            defaults.insert(place, DrawBatches(cfg, model, family.draw_batch, self._ema))
            place += 1
        stop = StopOnSignal(self.checkpointer, cfg.TEST.EVAL_PERIOD)
        defaults.insert(place, stop.before_evaluation)
        place += 1
        if not cfg.TEST.BEST.METRIC:
            defaults[place] = EvalUnlessFailed(cfg.TEST.EVAL_PERIOD, lambda: this.evaluate())
            return [*defaults, stop]
        periodic = [hook for hook in defaults if isinstance(hook, hooks.PeriodicCheckpointer)]
        self._selection = Selection(
            cfg, self.checkpointer, periodic[0] if periodic else None, lambda: this.test_results
        )
        evaluation = EvalAfterStep(cfg.TEST.EVAL_PERIOD, lambda: this.evaluate())
        defaults[place : place + 1] = [evaluation, self._selection]
        return [*defaults, stop, EndAtMaxIter()]

    def evaluate(self) -> dict[str, Any]:
        """Evaluate on ``DATASETS.TEST``: the averaged weights where there is an average."""
        if self._ema is None:
            self._last_eval_results = self.test(self.cfg, self.model)
        else:
            logger.info("Evaluating the moving average of the weights (MODEL.EMA).")
            with self._ema.applied():
                self._last_eval_results = self.test(self.cfg, self.model)
        return self._last_eval_results

    def train(self) -> Any:  # type: ignore[override]  # DefaultTrainer has the same
        """Run the training; see :class:`DefaultTrainer`.

        One that is over, also by early stopping, and that is resumed, is only evaluated.
        """
        if self._selection is not None and self._selection.is_over:
            logger.warning(
                "Early stopping had ended this training. To go on, raise "
                "TEST.EARLY_STOPPING.PATIENCE."
            )
            self.max_iter = min(self.max_iter, self.start_iter)
        elif self.start_iter >= self.max_iter:
            logger.warning(
                "This training has come to its end: it is resumed after %d iterations, and "
                "SOLVER.MAX_ITER is %d. To go on, raise SOLVER.MAX_ITER.",
                self.start_iter,
                self.max_iter,
            )
        try:
            return super().train()
        finally:
            self._trainer.end_workers()

    def resume_or_load(self, resume: bool = True) -> None:
        """Load the last checkpoint of ``OUTPUT_DIR`` or ``MODEL.WEIGHTS``.

        A model with a method ``check_loaded`` is asked whether training from there makes sense.

        Raises:
            WeightsError: see :meth:`InstSegCheckpointer.load`, or the model's own check.
        """
        super().resume_or_load(resume)
        check = getattr(self.checkpointer.model, "check_loaded", None)
        if check is not None:
            weights = self.checkpointer.resumed_from or self.cfg.MODEL.WEIGHTS
            check(self.checkpointer.report, weights)
        if comm.is_main_process():
            # No other training can be running in this folder.
            left = remove_leftovers(self.cfg.OUTPUT_DIR, r"model_\w+\.pth|last_checkpoint")
            if left:
                logger.info("Removed what a killed training had not finished: %s", ", ".join(left))

    @property
    def test_results(self) -> dict[str, Any]:
        """What the last evaluation gave: ``{task: {metric: value}}``, or with several test sets one
        such dict for each name; empty before the first evaluation."""
        return getattr(self, "_last_eval_results", {})

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        return build_model(cfg)

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        if family_of(cfg) is None:  # Detectron2's own models keep its recipe
            return super().build_optimizer(cfg, model)
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(
        cls, cfg: CfgNode, optimizer: torch.optim.Optimizer
    ) -> torch.optim.lr_scheduler.LRScheduler:
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Iterable[list[dict[str, Any]]]:
        """Batches of ``SOLVER.IMS_PER_BATCH`` images over all processes."""
        parts = cfg.SOLVER.ACCUMULATE_STEPS
        if parts == 1:
            return cls._build_train_loader(cfg)
        cfg = cfg.clone()
        cfg.defrost()
        cfg.SOLVER.IMS_PER_BATCH *= parts
        return SplitBatches(cls._build_train_loader(cfg), parts)

    @classmethod
    def _build_train_loader(cls, cfg: CfgNode) -> Iterable[list[dict[str, Any]]]:
        family = family_of(cfg)
        if family is None:
            counts = [
                len(to_learn_from(cfg, load_dataset(cfg, name, for_training=True)))
                for name in cfg.DATASETS.TRAIN
            ]
            cls._num_images = sum(counts)
            check_proposal_files(cfg, "TRAIN")
            return build_training_loader(cfg)
        dicts = training_dicts(cfg)
        cls._num_images = len(dicts)
        if family.build_train_loader is not None:
            with names_datasets(cfg.DATASETS.TRAIN):
                return family.build_train_loader(cfg, dicts)
        return build_training_loader(cfg, dicts, family.build_mapper(cfg, True))

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Iterable[list[dict[str, Any]]]:
        """What an evaluation in the course of the training reads, which no signal interrupts."""
        loader = cls._build_test_loader(cfg, dataset_name)
        if isinstance(loader, DataLoader):
            loader.worker_init_fn = outlive_one_signal
        return loader

    @classmethod
    def _build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Iterable[list[dict[str, Any]]]:
        family = family_of(cfg)
        if family is None:
            return super().build_test_loader(cfg, dataset_name)
        if family.build_test_loader is not None:
            return checked_test_loader(cfg, dataset_name, family.build_test_loader)
        return build_detection_test_loader(
            cfg, dataset_name, mapper=family.build_mapper(cfg, False)
        )

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        family = family_of(cfg)
        if family is not None and family.build_evaluator is not None:
            return family.build_evaluator(cfg, dataset_name)
        return build_evaluator(cfg, dataset_name)


def exchanging_gradients(model: nn.Module) -> nn.Module:
    """The model, wrapped so that several processes take the mean of their gradients."""
    if comm.get_world_size() == 1:
        return model
    device = next(model.parameters()).device
    return DistributedDataParallel(
        model, device_ids=None if device.type == "cpu" else [device], broadcast_buffers=False
    )
