"""The norm of the gradient among the metrics, whatever clips or scales it."""

import pytest
import torch
from detectron2.engine import SimpleTrainer
from torch import Tensor, nn

from instseg_d2.config import load_config
from instseg_d2.engine.amp import MixedPrecisionTrainer
from instseg_d2.engine.gradient_norm import PERIOD, GradientNorm
from instseg_d2.solver import build_optimizer


class Linear(nn.Module):
    """The gradient is the input: (3, 4), of norm 5."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"loss": (self.weight * x).sum() + 1}


def norms(clip_type: str, steps: int, scaled: bool, values: tuple[float, float]) -> list[tuple]:
    cfg = load_config("", ["SOLVER.OPTIMIZER", "SGD"])
    if clip_type:
        cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
        cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = clip_type
        cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 0.01
    model = Linear()
    optimizer = build_optimizer(cfg, model)
    data = [torch.tensor(values)] * steps
    if scaled:
        trainer = MixedPrecisionTrainer(
            model, data, optimizer, device_type="cpu", dtype=torch.float16
        )
    else:
        trainer = SimpleTrainer(model, data, optimizer)
    trainer.register_hooks([GradientNorm()])
    trainer.train(0, steps)
    histories = trainer.storage.histories()
    return histories["grad_norm"].values() if "grad_norm" in histories else []


@pytest.mark.parametrize("clip_type", ["", "full_model", "norm", "value"])
@pytest.mark.parametrize("scaled", [False, True])
def test_it_is_of_the_whole_gradient_before_clipping(clip_type: str, scaled: bool) -> None:
    assert norms(clip_type, 2 * PERIOD, scaled, (3.0, 4.0)) == [
        (pytest.approx(5.0), 0), (pytest.approx(5.0), PERIOD)
    ]  # fmt: skip


@pytest.mark.parametrize("clip_type", ["", "full_model"])
def test_a_step_that_is_skipped_has_none(clip_type: str) -> None:
    assert norms(clip_type, 1, True, (1e38, 1e38)) == []
