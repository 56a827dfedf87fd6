"""Several batches in one step, on small models: loops, clipping and loss scaling."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.engine import SimpleTrainer
from torch import Tensor, nn

from instseg_d2.config import load_config
from instseg_d2.data.config_datasets import register_config_datasets
from instseg_d2.engine import Trainer
from instseg_d2.engine.accumulation import AccumulatingTrainer, SplitBatches
from instseg_d2.engine.amp import MixedPrecisionTrainer
from instseg_d2.errors import ConfigError
from instseg_d2.modeling import check_training
from instseg_d2.solver import build_optimizer


class MeanOverImages(nn.Module):
    """A batch is a list of images (3,)."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def answers(self, batch: list[Tensor]) -> Tensor:
        return self.layer(torch.stack(batch).to(self.layer.weight.dtype)).square()

    def forward(self, batch: list[Tensor]) -> dict[str, Tensor]:
        answers = self.answers(batch)
        return {"loss_a": answers.mean(), "loss_b": (answers**2).mean()}


class MeanOverPositive(MeanOverImages):
    """Its loss is divided by the number of images whose first value is above 0."""

    def step_totals(self, batches: list[list[Tensor]]) -> int:
        self.seen = [len(batch) for batch in batches]
        return count_positive([image for batch in batches for image in batch])

    def forward(self, batch: list[Tensor], step_totals: int | None = None) -> dict[str, Tensor]:
        total = count_positive(batch) if step_totals is None else step_totals
        return {"loss": self.answers(batch).sum() / max(total, 1)}


def count_positive(images: list[Tensor]) -> int:
    return sum(int(image[0] > 0) for image in images)


def images(count: int) -> list[Tensor]:
    return list(torch.randn(count, 3, generator=torch.Generator().manual_seed(1)))


def optimizer_of(model: nn.Module, clip_type: str = "") -> torch.optim.Optimizer:
    cfg = load_config("", ["SOLVER.BASE_LR", "0.1", "SOLVER.OPTIMIZER", "ADAMW"])
    if clip_type:
        cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
        cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = clip_type
        cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 0.01
    return build_optimizer(cfg, model)


def seeded(model_type: type[nn.Module], dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return model_type().to(dtype)


def accumulating(
    model: nn.Module, data: list[Any], num_batches: int, clip_type: str = "", **kwargs: Any
) -> AccumulatingTrainer:
    kwargs = {"device_type": "cpu", "dtype": torch.float32, **kwargs}
    optimizer = optimizer_of(model, clip_type)
    return AccumulatingTrainer(model, data, optimizer, num_batches=num_batches, **kwargs)


def split(large: list[Any], parts: int) -> list[Any]:
    return list(SplitBatches(large, parts))


def test_a_split_loader_gives_the_images_in_their_order() -> None:
    large = [list(range(6)), list(range(6, 12))]
    assert split(large, 3) == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11]]
    endless = iter(SplitBatches(itertools.repeat([1, 2]), 2))
    assert [next(endless) for _ in range(3)] == [[1], [2], [1]]


@pytest.mark.parametrize("model_type", [MeanOverImages, MeanOverPositive])
@pytest.mark.parametrize("parts", [2, 3])
@pytest.mark.parametrize("clip_type", ["", "full_model", "norm"])
def test_small_batches_take_the_steps_of_a_large_one(
    model_type: type[nn.Module], parts: int, clip_type: str
) -> None:
    large = [images(18)[start : start + 6] for start in (0, 6, 12)]
    one, several = (seeded(model_type, torch.float64) for _ in range(2))
    trainers = [
        SimpleTrainer(one, large, optimizer_of(one, clip_type)),
        accumulating(several, split(large, parts), parts, clip_type),
    ]
    for trainer in trainers:
        trainer.train(0, 3)
    torch.testing.assert_close(several.state_dict(), one.state_dict(), rtol=1e-9, atol=1e-12)
    histories = [trainer.storage.histories() for trainer in trainers]
    for name in ("total_loss", *(key for key in histories[0] if key.startswith("loss"))):
        expected = [value for value, _ in histories[0][name].values()]
        assert [value for value, _ in histories[1][name].values()] == pytest.approx(expected)
    assert len(histories[1]["total_loss"].values()) == 3


def test_the_model_is_asked_before_the_first_batch_runs() -> None:
    model = seeded(MeanOverPositive)
    accumulating(model, split([images(6)], 3), 3).train(0, 1)
    assert model.seen == [2, 2, 2]


def test_a_scaled_loss_and_clipping_change_no_step() -> None:
    """Autocast would round; the scaler's arithmetic is that of float32."""
    large = [images(12)[start : start + 4] for start in (0, 4, 8)]
    one, several = seeded(MeanOverImages), seeded(MeanOverImages)
    SimpleTrainer(one, large, optimizer_of(one, "full_model")).train(0, 3)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    trainer = accumulating(several, split(large, 2), 2, "full_model", grad_scaler=scaler)
    trainer.train(0, 3)
    torch.testing.assert_close(several.state_dict(), one.state_dict(), rtol=1e-5, atol=1e-6)
    assert trainer.grad_scaler.state_dict()["_growth_tracker"] == 3  # once a step


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_accumulates_what_it_computes_of_a_large_batch(dtype: torch.dtype) -> None:
    large = [images(4)]
    one, several = seeded(MeanOverImages), seeded(MeanOverImages)
    optimizer = torch.optim.SGD(one.parameters(), 0.1)
    MixedPrecisionTrainer(one, large, optimizer, device_type="cpu", dtype=dtype).train(0, 1)
    trainer = AccumulatingTrainer(
        several, split(large, 2), torch.optim.SGD(several.parameters(), 0.1),
        device_type="cpu", dtype=dtype, num_batches=2,
    )  # fmt: skip
    trainer.train(0, 1)
    assert (trainer.grad_scaler is not None) == (dtype == torch.float16)
    torch.testing.assert_close(several.state_dict(), one.state_dict(), rtol=0.01, atol=0.01)


def test_a_loss_that_is_not_finite_in_one_batch_ends_the_training() -> None:
    data = [[torch.zeros(3)], [torch.full((3,), float("nan"))]]
    with pytest.raises(FloatingPointError, match="iteration=0"):
        accumulating(seeded(MeanOverImages), data, 2).train(0, 1)


def test_a_step_of_no_batch_is_refused() -> None:
    overrides = ["MODEL.DEVICE", "cpu", "SOLVER.ACCUMULATE_STEPS", "0"]
    with pytest.raises(ConfigError, match=r"SOLVER\.ACCUMULATE_STEPS is 0"):
        check_training(load_config("", overrides))


# -------------------------------------------------------------------------------------- the trainer


def tiny_config(overrides: list[str], *more: str) -> CfgNode:
    cfg = load_config("sparseinst/sparse_inst_r50_giam", [*overrides, *more])
    register_config_datasets(cfg)
    return cfg


def test_a_training_sees_the_images_that_a_large_batch_has(tiny_overrides: list[str]) -> None:
    """Grouped by their aspect ratio, and augmented, alike."""
    seen = []
    for settings in (["SOLVER.IMS_PER_BATCH", "4"], ["SOLVER.ACCUMULATE_STEPS", "2"]):
        np.random.seed(0)
        batches = iter(Trainer.build_train_loader(tiny_config(tiny_overrides, *settings)))
        batch = [next(batches) for _ in range(4 if "4" in settings else 8)]
        seen.append([image for images in batch for image in images])
    assert [one["file_name"] for one in seen[0]] == [one["file_name"] for one in seen[1]]
    for large, small in zip(*seen, strict=True):
        assert torch.equal(large["image"], small["image"])


def test_without_accumulation_the_loop_takes_a_batch_a_step(
    tiny_overrides: list[str], tmp_path: Path
) -> None:
    loops = {}
    for steps in ("1", "2"):
        cfg = tiny_config(tiny_overrides, "SOLVER.ACCUMULATE_STEPS", steps)
        cfg.OUTPUT_DIR = str(tmp_path)
        loops[steps] = type(Trainer(cfg)._trainer)
    assert loops == {"1": MixedPrecisionTrainer, "2": AccumulatingTrainer}
