"""Two processes on the CPU (gloo) train and evaluate as one does on the same images.

In float64 but for one case, so that what differs is not the order of sums. Norms are frozen, as in
the published schedules: those that are trained take their statistics from the images of one process
(``SyncBN`` from all).
"""

import hashlib
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Instances
from detectron2.utils import comm
from torch import nn

from instseg_d2.config import load_config
from instseg_d2.data.config_datasets import register_config_datasets
from instseg_d2.ema import WeightAverage
from instseg_d2.engine import Trainer
from instseg_d2.engine.accumulation import AccumulatingTrainer, SplitBatches
from instseg_d2.engine.amp import MixedPrecisionTrainer
from instseg_d2.engine.averaging import AverageWeights
from instseg_d2.engine.trainer import exchanging_gradients
from instseg_d2.modeling import build_model
from instseg_d2.solver import build_optimizer
from tests.sharpmask_d2.small_networks import patches, small_model
from tests.training_runs import FIND_SOMETHING
from tests.two_processes import spawn_two

#: Instances of the four images of each step; a process has the first two or the last two. Some have
#: empty images alone, or more instances than the model has maps for (10).
COUNTS = ((1, 3, 2, 5), (2, 1, 0, 0), (0, 0, 12, 1), (0, 0, 0, 0), (0, 1, 0, 0)) * 2
#: Patches of the four images: with a mask, an object, none.
KINDS = ("mm+-", "m+--", "--mm", "+-mm", "mmmm") * 2


@dataclass(frozen=True)
class Case:
    """A training of ten steps of four images.

    Attributes:
        model: "SparseInst", "DeepMask" or "SharpMask".
        overrides: of the solver.
        dtype: of the weights.
        parts: batches of each process in a step.
    """

    model: str
    overrides: tuple[str, ...]
    dtype: torch.dtype = torch.float64
    parts: int = 1


ADAMW = ("SOLVER.OPTIMIZER", "ADAMW", "SOLVER.BASE_LR", "0.001")
SGD = ("SOLVER.OPTIMIZER", "SGD", "SOLVER.BASE_LR", "0.001")
CLIPPED = (
    *("SOLVER.CLIP_GRADIENTS.ENABLED", "True", "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "full_model"),
    *("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "0.1"),
)
CASES = {
    "SparseInst, AdamW": Case("SparseInst", ADAMW),
    "SparseInst, SGD, float32": Case("SparseInst", (*SGD, *CLIPPED), torch.float32),
    "SparseInst, accumulated": Case("SparseInst", (*SGD, *CLIPPED), parts=2),
    "DeepMask, SGD": Case("DeepMask", SGD),
    "SharpMask, accumulated": Case("SharpMask", ADAMW, parts=2),
}


def image(counts: int, dtype: torch.dtype, generator: torch.Generator) -> dict[str, Any]:
    instances = Instances((64, 96))
    instances.gt_classes = torch.randint(6, (counts,), generator=generator)
    instances.gt_masks = BitMasks(torch.rand(counts, 64, 96, generator=generator) > 0.5)
    pixels = torch.randint(256, (3, 64, 96), generator=generator).to(dtype)
    return {"image": pixels, "instances": instances}


def model_and_batches(case: Case, tiny: list[str]) -> tuple[nn.Module, list[list[Any]], Any]:
    """The same in every process."""
    torch.manual_seed(0)
    cfg = load_config("sparseinst/sparse_inst_r50_giam", [*tiny, *case.overrides])
    if case.model == "SparseInst":
        generator = torch.Generator().manual_seed(3)
        batches = [[image(n, case.dtype, generator) for n in counts] for counts in COUNTS]
        return build_model(cfg).to(case.dtype).train(), batches, cfg
    # Dropout would draw other numbers.
    model = small_model(case.model, HEAD__DROPOUT=0.0, FREEZE_FEEDFORWARD=False)
    model = model.to(case.dtype).train()
    return model, [patches(model, kinds) for kinds in KINDS], cfg


def train(case: Case, tiny: list[str]) -> dict[str, Any]:
    """What this process has after ten steps on its part of each batch."""
    model, batches, cfg = model_and_batches(case, tiny)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = build_optimizer(cfg, model)
    ema = WeightAverage(model, 0.9)
    share = 4 // comm.get_world_size()
    first = comm.get_rank() * share
    data = [batch[first : first + share] for batch in batches]
    args = exchanging_gradients(model), SplitBatches(data, case.parts), optimizer
    kwargs: dict[str, Any] = {"device_type": "cpu", "dtype": torch.float32}  # no autocast
    loop = (
        MixedPrecisionTrainer(*args, **kwargs)
        if case.parts == 1
        else AccumulatingTrainer(*args, num_batches=case.parts, **kwargs)
    )
    loop.register_hooks([AverageWeights(ema)])
    loop.train(0, len(data))
    losses = {
        name: [value for value, _ in history.values()]
        for name, history in loop.storage.histories().items()
        if "loss" in name
    }
    state = model.state_dict()
    return {"losses": losses, "weights": state, "average": ema.average(), "start": start}


#: Config, overrides, and the file of results below ``OUTPUT_DIR``. Of a single image, the second of
#: two processes has none.
EVALUATIONS = {
    f"{name}, {num_val} images": (config, [*more, "DATASETS.SHAPES.NUM_VAL", num_val], result)
    for num_val in ("3", "1")
    for name, config, more, result in (
        (
            "SparseInst",
            "sparseinst/sparse_inst_r50_giam",
            FIND_SOMETHING,
            "inference/coco_instances_results.json",
        ),
        (
            "proposals",
            "sharpmask/sharpmask_r50",
            ["MODEL.SHARP_MASK.EVALUATION", "proposals", "MODEL.SHARP_MASK.PROPOSALS.NUM", "50"],
            "inference/proposal_recall.json",
        ),
        ("patches", "sharpmask/sharpmask_r50", ["MODEL.SHARP_MASK.EVALUATION", "patches"], ""),
    )
}


def evaluate(name: str, tiny: list[str], folder: Path) -> tuple[Any, str]:
    """The figures, and a digest of the results' file, written in this process or another."""
    config, overrides, result = EVALUATIONS[name]
    cfg = load_config(config, [*tiny, *overrides, "OUTPUT_DIR", str(folder / name)])
    register_config_datasets(cfg)
    torch.manual_seed(0)
    figures = Trainer.test(cfg, build_model(cfg))
    comm.synchronize()
    path = folder / name / result
    return figures, hashlib.sha256(path.read_bytes()).hexdigest() if result else ""


def everything(tiny: list[str], folder: Path) -> dict[str, Any]:
    random.seed(0)
    np.random.seed(0)
    trained = {name: train(case, tiny) for name, case in CASES.items()}
    return {**trained, **{name: evaluate(name, tiny, folder) for name in EVALUATIONS}}


def worker(rank: int, folder: Path, tiny: list[str]) -> None:
    torch.save(everything(tiny, folder), folder / f"{rank}.pth")


@pytest.fixture(scope="module")
def outcomes(
    tiny_overrides: list[str], tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    """Of one process, and of the first and the second of two."""
    folder = tmp_path_factory.mktemp("processes")
    with torch.random.fork_rng():
        one = everything(tiny_overrides, folder / "one")
    spawn_two(worker, folder, tiny_overrides)
    return [one, *(torch.load(folder / f"{rank}.pth", weights_only=False) for rank in range(2))]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_losses_and_weights_after_ten_steps(outcomes: list[dict[str, Any]], name: str) -> None:
    one, *two = (outcome[name] for outcome in outcomes)
    assert len(one["losses"]["total_loss"]) == 10
    for loss, values in one["losses"].items():  # the main process has the mean over both
        assert two[0]["losses"][loss] == pytest.approx(values, rel=1e-5), loss
    for kind in ("weights", "average"):
        for key, value in one[kind].items():
            for other in two:
                torch.testing.assert_close(other[kind][key], value, rtol=1e-5, atol=1e-5)
    changes = [(one["weights"][key] - value).abs().max() for key, value in one["start"].items()]
    assert max(changes) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", EVALUATIONS)
def test_figures_and_files_of_an_evaluation(outcomes: list[dict[str, Any]], name: str) -> None:
    one, first, second = (outcome[name] for outcome in outcomes)
    assert one[0]
    assert repr(first) == repr(one)  # NaN is not equal to NaN
    assert not second[0]
