"""A training that is resumed goes on exactly as one that was not interrupted.

Weights, optimiser, schedule and the like are in the checkpoint. Random numbers and the order of the
data are not: they follow from the seed and from how far the training has come, which is all that is
saved of them.
"""

import logging
from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import HookBase, hooks
from detectron2.utils import comm

from ..data.training_loader import training_seed
from ..recipe import effective_batch
from ..seeding import Purpose, derived_seed, seed_all_devices

logger = logging.getLogger(__name__)


class ExactResume(HookBase):
    """Seeds each step by its iteration, and has the data begin where the checkpoint ended.

    It comes before the hook that saves checkpoints.
    """

    def __init__(self, cfg: CfgNode, others: Sequence[HookBase | None] = ()) -> None:
        """
        Args:
            cfg: its ``SEED`` and the size of its steps.
            others: the hooks of the training; those for precise batch norms read data of their own.
        """
        self._config_seed: int = cfg.SEED
        self._precise = [hook for hook in others if isinstance(hook, hooks.PreciseBN)]
        self._step_size = effective_batch(cfg)
        self.seed = training_seed(cfg)
        self.num_images: int | None = None  # trained on so far; None: as many as the steps say

    def before_train(self) -> None:
        start = self.trainer.start_iter
        if self.num_images is None:
            self.num_images = start * self._step_size
        if self._config_seed < 0:
            logger.info("SEED is negative; the seed of this training is %d.", self.seed)
        loader = self.trainer.data_loader
        if not _start(loader, self.seed, self.num_images) and start > 0:
            logger.warning(
                "The training goes on, but its data, a %s, begins anew: only loaders with a method "
                "start_at can begin elsewhere.",
                type(loader).__name__,
            )

    def before_step(self) -> None:
        iteration = self.trainer.iter
        seed_all_devices(Purpose.STEP, self.seed, iteration, comm.get_rank())
        for hook in self._precise:  # it would go on reading where it was
            hook._data_iter = None
            seed = derived_seed(Purpose.PRECISE_BN, self.seed, iteration)
            _start(hook._data_loader, seed, 0)

    def after_step(self) -> None:
        assert self.num_images is not None, "training has begun"
        self.num_images += self._step_size

    def state_dict(self) -> dict[str, Any]:
        return {"seed": self.seed, "num_images": self.num_images}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.num_images = state["num_images"]
        if self._config_seed < 0:
            self.seed = state["seed"]
        elif self._config_seed != state["seed"]:
            logger.warning(
                "SEED is %d, but the checkpoint is of a training with %d: the order of the images "
                "and all random numbers are other ones from here on.",
                self._config_seed,
                state["seed"],
            )


def _start(loader: Any, seed: int, num_images: int) -> bool:
    """Whether the loader can start there, as one of the user's own may not."""
    if not hasattr(loader, "start_at"):
        return False
    loader.start_at(seed, num_images)
    return True
