"""Values of a config that nothing can work with, found before anything is built.

Of Detectron2's keys those whose values it checks late, with an assertion that names no key, or not
at all. Our own keys are checked by what reads them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode

from .errors import ConfigError, short_repr
from .families import config_value


class Rule(NamedTuple):
    """What the value of a key must be: ``fits`` says whether it is so, ``wanted`` in words."""

    fits: Callable[[Any], bool]
    wanted: str

    def admits(self, value: Any) -> bool:
        """Whether it fits; what cannot be compared, such as text in a list of numbers, does not."""
        try:
            return self.fits(value)
        except TypeError:
            return False


def _one_of(*values: Any) -> Rule:
    *others, last = map(repr, values)
    return Rule(lambda value: value in values, f"{', '.join(others)} or {last}")


def _from(least: float, what: str = "a number") -> Rule:
    return Rule(lambda value: least <= value < math.inf, f"{what} from {least}")  # nor is NaN


def _names_a_device(value: str) -> bool:
    try:
        torch.device(value)
    except RuntimeError:
        return False
    return True


def _rises(values: Any) -> bool:
    numbers = list(values)
    return numbers == sorted(set(numbers)) and min(numbers, default=0) >= 0


#: Sides of images: one number or several, all above 0.
SIDES = Rule(
    lambda value: len(_as_tuple(value)) > 0 and min(_as_tuple(value)) > 0,
    "one or more numbers of pixels, all above 0",
)
COUNT = _from(1, "a whole number")
FROM_ZERO = _from(0, "a whole number")

#: Values of ``DATALOADER.SAMPLER_TRAIN``. Detectron2's weighted samplers need config keys that it
#: lacks itself.
SAMPLERS = ("TrainingSampler", "RepeatFactorTrainingSampler", "RandomSubsetTrainingSampler")

RULES = {
    "MODEL.DEVICE": Rule(_names_a_device, "'cuda', 'cuda:N' or 'cpu'"),
    "MODEL.RESNETS.DEPTH": _one_of(18, 34, 50, 101, 152),
    "MODEL.RESNETS.NORM": _one_of(
        "FrozenBN", "BN", "SyncBN", "GN", "LN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N", ""
    ),
    "MODEL.PIXEL_STD": Rule(lambda value: min(value, default=0) > 0, "numbers above 0"),
    "SOLVER.BASE_LR": _from(0),
    "SOLVER.WEIGHT_DECAY": _from(0),
    "SOLVER.MOMENTUM": _from(0),
    "SOLVER.IMS_PER_BATCH": COUNT,
    "SOLVER.MAX_ITER": COUNT,
    "SOLVER.STEPS": Rule(_rises, "numbers of iterations from 0 that rise"),
    "SOLVER.WARMUP_ITERS": FROM_ZERO,
    "SOLVER.WARMUP_METHOD": _one_of("linear", "constant"),
    "SOLVER.LR_SCHEDULER_NAME": _one_of(
        "WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR"
    ),
    "SOLVER.CHECKPOINT_PERIOD": COUNT,
    "DATALOADER.NUM_WORKERS": FROM_ZERO,
    "DATALOADER.SAMPLER_TRAIN": _one_of(*SAMPLERS),
    "INPUT.FORMAT": _one_of("BGR", "RGB", "L", "YUV-BT.601"),
    "INPUT.MIN_SIZE_TRAIN": SIDES,
    "INPUT.MAX_SIZE_TRAIN": COUNT,
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": _one_of("choice", "range"),
    "INPUT.MIN_SIZE_TEST": FROM_ZERO,
    "INPUT.MAX_SIZE_TEST": COUNT,
    "INPUT.RANDOM_FLIP": _one_of("horizontal", "vertical", "none"),
    "INPUT.MASK_FORMAT": _one_of("polygon", "bitmask"),
    "INPUT.CROP.TYPE": _one_of("relative_range", "relative", "absolute", "absolute_range"),
    "TEST.EVAL_PERIOD": FROM_ZERO,
    "TEST.DETECTIONS_PER_IMAGE": COUNT,
    "VIS_PERIOD": FROM_ZERO,
    "SEED": Rule(lambda value: value < 2**31, "a whole number below 2147483648; -1 draws one"),
}  # fmt: skip


def check_values(cfg: CfgNode) -> None:
    """
    Raises:
        ConfigError: a value is out of range, or does not go with another; the message names the
            key, the value and what is wanted.
    """
    for key, rule in RULES.items():
        value = config_value(cfg, key)
        if not rule.admits(value):
            raise ConfigError(f"{key} is {short_repr(value)}; it must be {rule.wanted}")
    means, deviations = cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD
    if len(means) != len(deviations):
        raise ConfigError(
            f"MODEL.PIXEL_MEAN has {len(means)} numbers and MODEL.PIXEL_STD {len(deviations)}; "
            "both need one for each channel of the image"
        )
    sides = _as_tuple(cfg.INPUT.MIN_SIZE_TRAIN)
    if cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "range" and len(sides) != 2:
        raise ConfigError(
            f"INPUT.MIN_SIZE_TRAIN is {sides} with INPUT.MIN_SIZE_TRAIN_SAMPLING range; it must "
            "be two numbers, the least and the greatest"
        )


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)
