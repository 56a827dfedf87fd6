"""Recipes: the learning rate and schedule that go with a batch size, and the linear rule.

The linear rule (arXiv 1706.02677): with n times fewer images a step, n times less learning rate and
n times more steps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from detectron2.config import CfgNode

from .errors import ConfigError


@dataclass(frozen=True)
class Recipe:
    """What a model is trained with; the names are those of the keys in ``SOLVER``.

    Attributes:
        ims_per_batch: images, or whatever batches are of, that one step learns from.
        max_iter: 0 for recipes that say nothing of the schedule; the next two mean nothing then.
        optimizer: "ADAMW" or "SGD", whose rates have nothing in common; "" if that is understood.
    """

    ims_per_batch: int
    base_lr: float
    max_iter: int = 0
    steps: tuple[int, ...] = ()
    warmup_iters: int = 0
    optimizer: str = ""

    def for_batch(self, batch: int) -> Recipe:
        """The recipe that the linear rule makes of this one for another batch size."""
        ratio = self.ims_per_batch / batch
        return replace(
            self,
            ims_per_batch=batch,
            base_lr=self.base_lr / ratio,
            max_iter=round(self.max_iter * ratio),
            steps=tuple(round(step * ratio) for step in self.steps),
            warmup_iters=round(self.warmup_iters * ratio),
        )

    def overrides(self) -> str:
        """The recipe for the end of a command line."""
        pairs = [f"SOLVER.BASE_LR {self.base_lr:.4g}"]
        if self.max_iter:
            pairs += [
                f"SOLVER.MAX_ITER {self.max_iter}",
                f'SOLVER.STEPS "{self.steps}"',
                f"SOLVER.WARMUP_ITERS {self.warmup_iters}",
            ]
        return " ".join(pairs)


def effective_batch(cfg: CfgNode) -> int:
    """What one step of the optimiser, as ``SOLVER.MAX_ITER`` counts them, learns from: accumulated
    batches included."""
    return cfg.SOLVER.IMS_PER_BATCH * cfg.SOLVER.ACCUMULATE_STEPS


def config_recipe(cfg: CfgNode) -> Recipe | None:
    """The recipe in ``SOLVER.RECIPE``; None if it has none.

    Raises:
        ConfigError: a batch without a learning rate.
    """
    node = cfg.SOLVER.RECIPE
    if node.IMS_PER_BATCH <= 0:
        return None
    if node.BASE_LR <= 0:
        raise ConfigError(
            f"SOLVER.RECIPE.IMS_PER_BATCH is {node.IMS_PER_BATCH} and SOLVER.RECIPE.BASE_LR "
            f"{node.BASE_LR}: a recipe needs both. -1 for the first means none."
        )
    return Recipe(
        ims_per_batch=node.IMS_PER_BATCH,
        base_lr=node.BASE_LR,
        max_iter=node.MAX_ITER,
        steps=tuple(node.STEPS),
        warmup_iters=node.WARMUP_ITERS,
    )
