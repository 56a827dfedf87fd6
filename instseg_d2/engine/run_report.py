"""What a training says of itself at its start: batch, epochs, learning rate against the recipe."""

import logging

from detectron2.config import CfgNode

from ..families import family_of
from ..recipe import Recipe, config_recipe, effective_batch
from ..weights.report import LoadReport

logger = logging.getLogger(__name__)

CLEAR_DIFFERENCE = 1.5
"""A learning rate so many times above or below the linear rule's gets a warning, and so does a
training on so many times fewer images than the published one."""


def log_schedule(cfg: CfgNode, num_images: int) -> None:
    """Log batch, epochs and learning rate, and what the linear rule makes of the recipe for this
    batch; warn if the learning rate is clearly another.

    Args:
        cfg: ``SOLVER.RECIPE`` says what to compare with.
        num_images: that are trained on, at least 1.

    Raises:
        ConfigError: see :func:`instseg_d2.recipe.config_recipe`.
    """
    family = family_of(cfg)
    unit = family.batch_unit if family else "images"
    solver, batch = cfg.SOLVER, effective_batch(cfg)
    passes = solver.MAX_ITER * batch / num_images
    seen = (
        f"{passes:.4g} epochs of {num_images} images"
        if unit == "images"
        else f"{passes:.4g} {unit} for each of {num_images} images"
    )
    logger.info(
        "Training: %d %s a step%s, %d steps: %s. Learning rate %.4g, %s, %d steps of warm-up.",
        batch,
        unit,
        "" if batch == solver.IMS_PER_BATCH else f" (accumulated in {solver.IMS_PER_BATCH}s)",
        solver.MAX_ITER,
        seen,
        solver.BASE_LR,
        f"falling at {tuple(solver.STEPS)}" if solver.STEPS else solver.LR_SCHEDULER_NAME,
        solver.WARMUP_ITERS,
    )
    recipe = recipe_of(cfg)
    if recipe is not None:
        _log_comparison(cfg, recipe, recipe.for_batch(batch), unit)


def recipe_of(cfg: CfgNode) -> Recipe | None:
    """What a run is compared with: the recipe in ``SOLVER.RECIPE``, or the published one.

    Returns:
        None if the config wants no comparison, nothing is published of the model, or it was trained
        with another optimiser.

    Raises:
        ConfigError: see :func:`instseg_d2.recipe.config_recipe`.
    """
    recipe, family = config_recipe(cfg), family_of(cfg)
    if cfg.SOLVER.RECIPE.IMS_PER_BATCH == 0 and family is not None:
        recipe = family.recipes.get(cfg.MODEL.META_ARCHITECTURE)
    if recipe is not None and recipe.optimizer not in ("", cfg.SOLVER.OPTIMIZER.upper()):
        return None
    return recipe


def _log_comparison(cfg: CfgNode, recipe: Recipe, scaled: Recipe, unit: str) -> None:
    is_own = cfg.SOLVER.RECIPE.IMS_PER_BATCH > 0
    logger.info(
        "%s has %d %s a step; for %d the linear rule gives\n  %s",
        "The config's recipe (SOLVER.RECIPE)" if is_own else "The published recipe (on COCO)",
        recipe.ims_per_batch,
        unit,
        scaled.ims_per_batch,
        scaled.overrides(),
    )
    # A recipe of the config's own is for data whose length it does not know, as own data's.
    if not is_own and not cfg.DATASETS.OWN.TRAIN_JSON:
        _warn_of_short_schedule(cfg, scaled)
    ratio = cfg.SOLVER.BASE_LR / scaled.base_lr
    if 1 / CLEAR_DIFFERENCE <= ratio <= CLEAR_DIFFERENCE:
        return
    logger.warning(
        "The learning rate, SOLVER.BASE_LR %.4g, is %.3g times that of the linear rule for batches "
        "of %d. With another batch size and the old rate models end clearly worse. Give\n"
        "  SOLVER.BASE_LR %.4g\nor, if the rate is meant, SOLVER.RECIPE.IMS_PER_BATCH -1 and "
        "nothing is compared.",
        cfg.SOLVER.BASE_LR,
        ratio,
        scaled.ims_per_batch,
        scaled.base_lr,
    )


def _warn_of_short_schedule(cfg: CfgNode, scaled: Recipe) -> None:
    """With smaller batches and as many steps as before, a model sees less of the data."""
    if scaled.max_iter <= cfg.SOLVER.MAX_ITER * CLEAR_DIFFERENCE:
        return
    logger.warning(
        "SOLVER.MAX_ITER %d is %.3g of the steps that the published schedule has in batches of %d. "
        'Give\n  SOLVER.MAX_ITER %d SOLVER.STEPS "%s"\nor, if a short training is meant, '
        "SOLVER.RECIPE.IMS_PER_BATCH -1 and nothing is compared.",
        cfg.SOLVER.MAX_ITER,
        cfg.SOLVER.MAX_ITER / scaled.max_iter,
        scaled.ims_per_batch,
        scaled.max_iter,
        scaled.steps,
    )


def warn_of_untrained_parts(report: LoadReport | None, weights: str) -> None:
    """Warn if a training on own data, mostly little, starts from no more than a backbone.

    Args:
        report: of loading; None if nothing was loaded.
        weights: ``MODEL.WEIGHTS``.
    """
    if report is not None and not all(name.startswith("backbone.") for name in report.matched):
        return
    start = "is empty" if report is None else f"{weights} has the backbone alone"
    logger.warning(
        "MODEL.WEIGHTS %s: %s of the model starts from random values and needs many times the "
        "steps of a fine-tuning. Give a checkpoint of a whole model, trained on COCO for example: "
        "MODEL.WEIGHTS path/to/checkpoint.pth. It may have other classes; docs/model_zoo.md lists "
        "published ones.",
        start,
        "all" if report is None else "the rest",
    )
