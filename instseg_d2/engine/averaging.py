"""Keeps the moving average of the weights in the course of a training."""

from detectron2.config import CfgNode
from detectron2.engine import HookBase

from ..ema import WeightAverage, check_decay
from ..errors import ConfigError


def check_averaging(cfg: CfgNode) -> None:
    """See that ``MODEL.EMA`` goes together with the rest of the config.

    Raises:
        ConfigError: an impossible decay, or precise statistics of batch norms, which would be
            those of other weights.
    """
    check_decay(cfg.MODEL.EMA.DECAY)
    if cfg.MODEL.EMA.ENABLED and cfg.TEST.PRECISE_BN.ENABLED:
        raise ConfigError(
            "MODEL.EMA.ENABLED and TEST.PRECISE_BN.ENABLED are both set: precise statistics would "
            "be of the weights that are being trained, and not of their average; set one to False"
        )


class AverageWeights(HookBase):
    """Takes the weights into their average after each step, and writes its decay, ``ema_decay``.

    That scalar tells evaluations of averaged weights from others.
    """

    def __init__(self, ema: WeightAverage) -> None:
        self._ema = ema

    def after_step(self) -> None:
        self.trainer.storage.put_scalar(
            "ema_decay", self._ema.current_decay(), smoothing_hint=False
        )
        self._ema.update()
