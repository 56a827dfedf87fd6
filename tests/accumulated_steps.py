"""The same steps, with each batch whole or in parts."""

from typing import Any

import torch
from detectron2.engine import SimpleTrainer
from torch import nn

from instseg_d2.engine.accumulation import AccumulatingTrainer, SplitBatches


def train_in_parts(
    model: nn.Module, data: list[Any], optimizer: torch.optim.Optimizer, parts: int
) -> dict[str, torch.Tensor]:
    """The model's state after a step on each of the batches, of which each comes in ``parts``."""
    trainer = SimpleTrainer(model, data, optimizer)
    if parts > 1:
        trainer = AccumulatingTrainer(
            model, SplitBatches(data, parts), optimizer,
            device_type="cpu", dtype=torch.float32, num_batches=parts,
        )  # fmt: skip
    trainer.train(0, len(data))
    return model.state_dict()
