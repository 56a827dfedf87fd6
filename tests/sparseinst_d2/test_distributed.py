"""Two real processes on the CPU (gloo), one of them with nothing but empty images."""

from pathlib import Path

import pytest
import torch
from detectron2.structures import BitMasks, Instances
from torch import distributed
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from instseg_d2.config import load_config
from instseg_d2.engine.accumulation import AccumulatingTrainer
from instseg_d2.modeling import build_model
from tests.two_processes import spawn_two

COUNTS = (2, 0)
STEPS = 2  # the second fails if a parameter got no gradient in the first


def inputs_of(rank: int) -> list[dict]:
    generator = torch.Generator().manual_seed(rank)
    instances = Instances((64, 96))
    instances.gt_classes = torch.randint(6, (COUNTS[rank],), generator=generator)
    instances.gt_masks = BitMasks(torch.rand(COUNTS[rank], 64, 96, generator=generator) > 0.5)
    image = torch.randint(256, (3, 64, 96), generator=generator)
    return [{"image": image, "instances": instances}]


def seeded_model(overrides: list[str]) -> torch.nn.Module:
    torch.manual_seed(0)
    cfg = load_config("sparseinst/sparse_inst_r50_giam_soft", overrides)
    return build_model(cfg).train()


def trainable(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def worker(rank: int, folder: Path, overrides: list[str]) -> None:
    """What one process does: two steps, then it saves its losses and parameters."""
    model = DistributedDataParallel(seeded_model(overrides))
    optimizer = torch.optim.SGD(trainable(model), 1e-3)
    for _ in range(STEPS):
        losses = model(inputs_of(rank))
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    losses = {name: value.detach() for name, value in losses.items()}
    accumulated = [accumulation_step(rank, overrides, parts) for parts in (1, 2)]
    torch.save((losses, model.module.state_dict(), accumulated), f"{folder}/{rank}.pth")


def counted_allreduce(
    counter: list[int], bucket: distributed.GradBucket
) -> torch.futures.Future[torch.Tensor]:
    counter[0] += 1
    return allreduce_hook(None, bucket)


def accumulation_step(rank: int, overrides: list[str], parts: int) -> tuple[dict, int]:
    """One step on two images in each process, in so many batches; the parameters after it, and how
    often gradients were exchanged."""
    images = [*inputs_of(rank), *inputs_of(0)]  # 2 + 2 instances, and 0 + 2
    model = DistributedDataParallel(seeded_model(overrides))
    exchanges = [0]
    model.register_comm_hook(exchanges, counted_allreduce)
    size = len(images) // parts
    batches = [images[start : start + size] for start in range(0, len(images), size)]
    trainer = AccumulatingTrainer(
        model, batches, torch.optim.SGD(trainable(model), 1e-3),
        device_type="cpu", dtype=torch.float32, num_batches=parts,
    )  # fmt: skip
    if parts == 1:  # a batch that is the whole step needs no totals
        trainer._normalisation = lambda batches: ([1.0], {})
    trainer._write_metrics = lambda *args: None  # there is no loop that would keep them
    trainer.run_step()
    return model.module.state_dict(), exchanges[0]


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path, tiny_overrides: list[str]) -> None:
    spawn_two(worker, tmp_path, tiny_overrides)
    results = [torch.load(tmp_path / f"{rank}.pth") for rank in range(len(COUNTS))]

    # One process computes the same gradient as the mean over ranks: the sum of both ranks' losses,
    # each normalised by the mean number of instances, halved.
    model = seeded_model(tiny_overrides)
    optimizer = torch.optim.SGD(trainable(model), 1e-3)
    last_losses: dict[int, dict[str, torch.Tensor]] = {}
    for _ in range(STEPS):
        optimizer.zero_grad()
        for rank, count in enumerate(COUNTS):
            losses = model(inputs_of(rank))
            mean = max(sum(COUNTS) / len(COUNTS), 1)
            for name in losses:  # all normalised by the instances, or as many matches
                losses[name] = losses[name] * max(count, 1) / mean
            (sum(losses.values()) / len(COUNTS)).backward()
            last_losses[rank] = {name: value.detach() for name, value in losses.items()}
        optimizer.step()
    for rank, (losses, state, _) in enumerate(results):
        for name, value in last_losses[rank].items():
            torch.testing.assert_close(losses[name], value, rtol=1e-4, atol=1e-6)
        for name, value in model.state_dict().items():
            torch.testing.assert_close(state[name], value, rtol=1e-4, atol=1e-6)
    for _, _, ((one, exchanges), (several, fewer)) in results:
        assert fewer == exchanges > 0  # once a step
        torch.testing.assert_close(several, one, rtol=1e-4, atol=1e-6)
