"""What a training says of its batch, epochs and learning rate."""

import logging
import shlex

import pytest
from detectron2.config import CfgNode

from instseg_d2.config import load_config
from instseg_d2.engine.run_report import log_schedule, recipe_of, warn_of_untrained_parts
from instseg_d2.errors import ConfigError
from instseg_d2.model_zoo import config_names, get_config
from instseg_d2.recipe import Recipe, effective_batch
from instseg_d2.weights.report import LoadReport

SPARSEINST = "sparseinst/sparse_inst_r50_giam"
PUBLISHED = Recipe(64, 5e-5, 270_000, (210_000, 250_000), 1000)


def messages(
    cfg: CfgNode, caplog: pytest.LogCaptureFixture, num_images: int = 100
) -> tuple[str, str]:
    """What is logged, and what of it are warnings."""
    caplog.set_level(logging.INFO)
    caplog.clear()
    log_schedule(cfg, num_images)
    warnings = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    return caplog.text, "\n".join(warnings)


def test_the_linear_rule() -> None:
    eight = PUBLISHED.for_batch(8)
    assert eight == Recipe(8, 6.25e-6, 2_160_000, (1_680_000, 2_000_000), 8000)
    assert eight.for_batch(64) == PUBLISHED
    assert eight.overrides() == (
        'SOLVER.BASE_LR 6.25e-06 SOLVER.MAX_ITER 2160000 SOLVER.STEPS "(1680000, 2000000)" '
        "SOLVER.WARMUP_ITERS 8000"
    )
    assert Recipe(8, 0.002).overrides() == "SOLVER.BASE_LR 0.002"


def test_the_suggestion_can_be_pasted() -> None:
    words = shlex.split(PUBLISHED.for_batch(8).overrides())
    cfg = load_config(SPARSEINST, ["SOLVER.IMS_PER_BATCH", "8", *words])
    assert cfg.SOLVER.STEPS == (1_680_000, 2_000_000)
    assert pytest.approx(6.25e-6) == cfg.SOLVER.BASE_LR


@pytest.mark.parametrize("name", config_names())
def test_no_config_warns_of_itself(name: str, caplog: pytest.LogCaptureFixture) -> None:
    cfg = get_config(name)
    text, warnings = messages(cfg, caplog)
    assert not warnings
    assert "SOLVER.BASE_LR" in text  # it is compared with something
    recipe = recipe_of(cfg)
    assert recipe is not None
    assert recipe.for_batch(effective_batch(cfg)).base_lr == pytest.approx(cfg.SOLVER.BASE_LR)
    if recipe.max_iter:
        assert recipe.max_iter == cfg.SOLVER.MAX_ITER
        assert recipe.steps == tuple(cfg.SOLVER.STEPS)
        assert recipe.warmup_iters == cfg.SOLVER.WARMUP_ITERS


@pytest.mark.parametrize("name", [SPARSEINST, "quickstart/sparseinst_shapes"])
def test_a_smaller_batch_at_the_old_rate_warns(name: str, caplog: pytest.LogCaptureFixture) -> None:
    cfg = load_config(name)
    cfg.SOLVER.IMS_PER_BATCH //= 4
    _, warnings = messages(cfg, caplog)
    assert "is 4 times that of the linear rule" in warnings
    assert f"SOLVER.BASE_LR {cfg.SOLVER.BASE_LR / 4:.4g}" in warnings
    cfg.SOLVER.BASE_LR /= 4
    assert "that of the linear rule" not in messages(cfg, caplog)[1]
    cfg.SOLVER.BASE_LR /= 4
    assert "is 0.25 times" in messages(cfg, caplog)[1]


def test_smaller_batches_in_as_many_steps_warn(caplog: pytest.LogCaptureFixture) -> None:
    smaller = ["SOLVER.IMS_PER_BATCH", "16", "SOLVER.BASE_LR", "1.25e-5"]
    _, warnings = messages(load_config(SPARSEINST, smaller), caplog)
    assert "SOLVER.MAX_ITER 270000 is 0.25 of the steps" in warnings
    assert 'SOLVER.MAX_ITER 1080000 SOLVER.STEPS "(840000, 1000000)"' in warnings
    longer = ["SOLVER.MAX_ITER", "1080000", "SOLVER.STEPS", "(840000, 1000000)"]
    _, warnings = messages(load_config(SPARSEINST, [*smaller, *longer]), caplog)
    assert not warnings


def test_epochs_and_accumulated_batches(caplog: pytest.LogCaptureFixture) -> None:
    cfg = load_config(SPARSEINST, ["SOLVER.IMS_PER_BATCH", "8", "SOLVER.MAX_ITER", "1000"])
    text, warnings = messages(cfg, caplog, num_images=500)
    assert "8 images a step, 1000 steps: 16 epochs of 500 images" in text
    assert warnings
    cfg.SOLVER.ACCUMULATE_STEPS = 8
    text, warnings = messages(cfg, caplog, num_images=500)
    assert "64 images a step (accumulated in 8s), 1000 steps: 128 epochs" in text
    assert "that of the linear rule" not in warnings


def test_batches_of_patches(caplog: pytest.LogCaptureFixture) -> None:
    cfg = load_config("sharpmask/deepmask_r50", ["SOLVER.MAX_ITER", "1000"])
    text, _ = messages(cfg, caplog, num_images=64)
    assert "32 patches a step, 1000 steps: 500 patches for each of 64 images" in text


@pytest.mark.parametrize(
    "change", [["SOLVER.OPTIMIZER", "SGD"], ["SOLVER.RECIPE.IMS_PER_BATCH", "-1"]]
)
def test_nothing_is_compared(change: list[str], caplog: pytest.LogCaptureFixture) -> None:
    """Rates of another optimiser mean nothing, and -1 switches the comparison off."""
    text, warnings = messages(load_config(SPARSEINST, ["SOLVER.BASE_LR", "1.0", *change]), caplog)
    assert "epochs" in text
    assert "linear rule" not in text
    assert not warnings


def test_a_recipe_without_a_rate_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"SOLVER\.RECIPE\.BASE_LR 0\.0: a recipe needs both"):
        log_schedule(load_config(SPARSEINST, ["SOLVER.RECIPE.IMS_PER_BATCH", "8"]), 1)


@pytest.mark.parametrize(
    ("report", "message"),
    [
        (None, "MODEL.WEIGHTS is empty: all of the model"),
        (LoadReport(["backbone.a"], ["head.b"], [], []), "has the backbone alone: the rest"),
        (LoadReport(["backbone.a", "head.b"], [], [], [("head.c", (3,), (4,))]), ""),
    ],
)
def test_starting_from_a_backbone_is_said(
    report: LoadReport | None, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    warn_of_untrained_parts(report, "R-50.pkl")
    assert message in caplog.text
    assert bool(caplog.text) == bool(message)
