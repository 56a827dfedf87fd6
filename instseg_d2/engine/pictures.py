"""Pictures of a training batch for TensorBoard: what is learned from, and what comes out."""

import contextlib
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import nn

from ..ema import WeightAverage
from ..families import BatchPictures


class DrawBatches(HookBase):
    """Every ``VIS_PERIOD`` iterations: draws the batch of that iteration, in the main process.

    The model, or the average of its weights where there is one, is run on it in eval mode. No
    random number is drawn, and no weight or statistic changes.
    """

    def __init__(
        self, cfg: CfgNode, model: nn.Module, draw: BatchPictures, ema: WeightAverage | None
    ) -> None:
        """
        Args:
            cfg: ``VIS_PERIOD`` is above 0.
            model: not wrapped in ``DistributedDataParallel``.
            draw: see :class:`instseg_d2.families.ModelFamily`.
            ema: of the model.
        """
        self._period = cfg.VIS_PERIOD
        self._input_format = cfg.INPUT.FORMAT
        names = cfg.DATASETS.TRAIN
        self._metadata = MetadataCatalog.get(names[0]) if names else None
        self._model = model
        self._draw = draw
        self._ema = ema
        self._batches: list[list[dict[str, Any]]] = []
        self._listener: Any = None

    def before_step(self) -> None:
        if (self.trainer.iter + 1) % self._period == 0 and comm.is_main_process():
            self._listener = self._model.register_forward_pre_hook(
                lambda _, args: self._batches.append(args[0])
            )

    def after_step(self) -> None:
        if self._listener is None:
            return
        self._listener.remove()
        self._listener = None
        for name, picture in self._pictures(self._batches[0]).items():
            channels = np.ascontiguousarray(picture.transpose(2, 0, 1))
            self.trainer.storage.put_image(name, channels)
        self._batches.clear()

    def _pictures(self, batch: list[dict[str, Any]]) -> dict[str, np.ndarray]:
        was_training = self._model.training
        averaged = contextlib.nullcontext() if self._ema is None else self._ema.applied()
        self._model.eval()
        try:
            with averaged, torch.no_grad():
                return self._draw(self._model, batch, self._input_format, self._metadata)
        finally:
            self._model.train(was_training)
