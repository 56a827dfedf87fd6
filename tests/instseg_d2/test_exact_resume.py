"""Trainings that are interrupted anywhere and resumed end as undisturbed ones, to the bit."""

import argparse
import copy
import itertools
import multiprocessing
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.utils.env import seed_all_rng

from instseg_d2.checkpoint import InstSegCheckpointer
from instseg_d2.config import load_config
from instseg_d2.data.config_datasets import register_config_datasets
from instseg_d2.engine import Trainer
from instseg_d2.engine.amp import MixedPrecisionTrainer
from instseg_d2.engine.exact_resume import ExactResume
from tests.small_model import Model

STEPS = 8
SPARSEINST = "sparseinst/sparse_inst_r50_giam"
#: All that has a state.
COMMON = [
    *("SOLVER.MAX_ITER", str(STEPS), "SOLVER.STEPS", "(5,)", "SOLVER.WARMUP_ITERS", "3"),
    *("SOLVER.CHECKPOINT_PERIOD", "3", "DATASETS.TEST", "()"),
    *("SEED", "-1"),  # a drawn one must be kept
]
CASES = {
    "SparseInst": (SPARSEINST, []),
    "its average, a seed, the best of its evaluations": (
        SPARSEINST,
        [
            *("MODEL.EMA.ENABLED", "True", "SEED", "7", "TEST.EVAL_PERIOD", "2"),
            *("DATASETS.TEST", "('shapes_val',)", "TEST.BEST.METRIC", "segm/AP"),
        ],
    ),
    "in workers": (SPARSEINST, ["DATALOADER.NUM_WORKERS", "2", "SOLVER.AMP.ENABLED", "True"]),
    "accumulated, cropped": (
        SPARSEINST,
        ["SOLVER.ACCUMULATE_STEPS", "2", "MODEL.EMA.ENABLED", "True", "INPUT.CROP.ENABLED", "True"],
    ),
    "precise batch norms": (
        SPARSEINST,
        [
            *("MODEL.RESNETS.NORM", "BN", "MODEL.BACKBONE.FREEZE_AT", "0", "TEST.EVAL_PERIOD", "2"),
            *("TEST.PRECISE_BN.ENABLED", "True", "TEST.PRECISE_BN.NUM_ITER", "2"),
        ],
    ),
    "DeepMask": ("sharpmask/deepmask_r50", []),
    "SharpMask with dropout, in workers": (
        "sharpmask/sharpmask_r50",
        [
            *("MODEL.SHARP_MASK.FREEZE_FEEDFORWARD", "False", "DATALOADER.NUM_WORKERS", "2"),
            *("MODEL.SHARP_MASK.HEAD.DROPOUT", "0.5"),
        ],
    ),
    # It draws the anchors that it learns from.
    "Detectron2's own models": (
        "quickstart/rpn_shapes",
        ["MODEL.FPN.OUT_CHANNELS", "8", "DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"],
    ),
}


class Killed(BaseException):
    """Comes at any time, and nothing can be done any more."""


class KillableTrainer(Trainer):
    """Dies in a step that has changed the weights."""

    dies_at: int | None = None

    def run_step(self) -> None:
        super().run_step()
        if self.iter == self.dies_at:
            raise Killed


def trainer_of(name: str, overrides: list[str], folder: Path) -> KillableTrainer:
    """A training of a case that goes on from the folder, or begins with the same weights."""
    config, changes = CASES[name]
    cfg = load_config(config, [*overrides, *COMMON, *changes, "OUTPUT_DIR", str(folder)])
    register_config_datasets(cfg)
    # The first weights and, without SEED, all that follows; what is resumed must not depend on it.
    is_new = not (folder / "last_checkpoint").exists()
    seed_all_rng(1 if is_new else random.SystemRandom().randrange(2**31))
    trainer = KillableTrainer(cfg)
    trainer.resume_or_load(resume=True)
    return trainer


def dies(name: str, overrides: list[str], folder: Path, iteration: int) -> None:
    trainer = trainer_of(name, overrides, folder)
    trainer.dies_at = iteration
    with pytest.raises(Killed):
        trainer.train()


def some_iteration() -> int:
    """Another one each time, which is printed; there is a checkpoint before it."""
    iteration = random.SystemRandom().randrange(3, STEPS)
    print("killed in iteration", iteration)
    return iteration


def final(folder: Path) -> dict[str, Any]:
    """All that the last checkpoint has."""
    content: dict[str, Any] = torch.load(folder / "model_final.pth", weights_only=True)
    return content


def differences(first: Any, second: Any, where: str = "") -> list[str]:
    """Where two checkpoints differ in any bit."""
    if type(first) is not type(second):
        return [where]
    if isinstance(first, torch.Tensor):
        return [] if first.dtype == second.dtype and torch.equal(first, second) else [where]
    if isinstance(first, (list, tuple)):
        first, second = dict(enumerate(first)), dict(enumerate(second))
    if not isinstance(first, dict):
        return [] if first == second else [f"{where}: {first} and {second}"]
    if first.keys() != second.keys():
        return [f"{where}: {first.keys()} and {second.keys()}"]
    return [d for key in first for d in differences(first[key], second[key], f"{where}/{key}")]


@pytest.mark.parametrize("name", CASES)
def test_a_training_that_dies_and_is_resumed_ends_as_one_that_does_not(
    tiny_overrides: list[str], tmp_path: Path, name: str
) -> None:
    """Weights, average, optimiser, schedule, selection: all that the last checkpoint has."""
    trainer_of(name, tiny_overrides, tmp_path / "whole").train()
    iteration = some_iteration()
    dies(name, tiny_overrides, tmp_path / "parts", iteration)
    again = trainer_of(name, tiny_overrides, tmp_path / "parts")
    assert again.start_iter == iteration // 3 * 3
    again.train()
    ends = [final(tmp_path / folder) for folder in ("whole", "parts")]
    assert ends[0]["iteration"] == STEPS - 1
    assert differences(*ends) == []


# ---------------------------------------------------------------------------- SIGKILL and SIGTERM


def killed_in_a_step(trainer: KillableTrainer, iteration: int) -> None:
    run_step = trainer.run_step

    def run_and_die() -> None:
        run_step()
        if trainer.iter == iteration:
            os.kill(os.getpid(), signal.SIGKILL)

    trainer.run_step = run_and_die


def killed_before_a_file_has_its_name(trainer: KillableTrainer, iteration: int) -> None:
    """A checkpoint is a file of its own and ``last_checkpoint``, which come one after the other."""
    replace, calls = os.replace, itertools.count(1)

    def replace_or_die(source: str, target: str) -> None:
        if next(calls) == iteration:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    os.replace = replace_or_die


def asked_to_end(trainer: KillableTrainer, iteration: int) -> None:
    run_step = trainer.run_step

    def run_and_ask() -> None:
        run_step()
        if trainer.iter == iteration:
            os.kill(os.getpid(), signal.SIGTERM)

    trainer.run_step = run_and_ask


def train_and_die(
    name: str, overrides: list[str], folder: Path, how: Callable[..., None], when: int
) -> None:
    torch.set_num_threads(1)
    trainer = trainer_of(name, overrides, folder)
    how(trainer, when)
    trainer.train()


@pytest.mark.parametrize(
    ("name", "how", "when"),
    [
        ("its average, a seed, the best of its evaluations", killed_in_a_step, None),
        ("SharpMask with dropout, in workers", killed_in_a_step, None),
        ("SparseInst", killed_before_a_file_has_its_name, 3),
        ("SparseInst", killed_before_a_file_has_its_name, 4),
        ("accumulated, cropped", asked_to_end, 4),
    ],
    ids=["SparseInst in a step", "SharpMask in a step", "before a checkpoint", "after it", "TERM"],
)
def test_a_process_that_is_killed_loses_nothing(
    tiny_overrides: list[str],
    tmp_path: Path,
    name: str,
    how: Callable[..., None],
    when: int | None,
) -> None:
    """The process is one of its own; not forked from this one, whose autograd may have threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # other numbers of them round differently
    try:
        trainer_of(name, tiny_overrides, tmp_path / "whole").train()
        process = multiprocessing.get_context("spawn").Process(
            target=train_and_die,
            args=(name, tiny_overrides, tmp_path / "parts", how, when or some_iteration()),
        )
        process.start()
        process.join()
        assert process.exitcode == (143 if how is asked_to_end else -signal.SIGKILL)
        left = list((tmp_path / "parts").glob("*.tmp"))
        assert len(left) == (how is killed_before_a_file_has_its_name)
        trainer_of(name, tiny_overrides, tmp_path / "parts").train()
    finally:
        torch.set_num_threads(threads)
    assert differences(final(tmp_path / "whole"), final(tmp_path / "parts")) == []
    assert not list((tmp_path / "parts").glob("*.tmp"))


# -------------------------------------------------------------------------------------- parts


def scaled_training(folder: Path) -> tuple[MixedPrecisionTrainer, InstSegCheckpointer]:
    """In float16, whose scale changes every two steps."""
    model = Model(width=4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    trainer = MixedPrecisionTrainer(
        model, [torch.ones(2, 4)] * 100, optimizer, device_type="cpu", dtype=torch.float16,
        grad_scaler=torch.amp.GradScaler("cpu", init_scale=2.0**17, growth_interval=2),
    )  # fmt: skip
    return trainer, InstSegCheckpointer(model, str(folder), trainer=trainer)


def test_the_scale_of_float16s_losses_goes_on(tmp_path: Path) -> None:
    whole, saving = scaled_training(tmp_path)
    start = copy.deepcopy(whole.model.state_dict())
    whole.train(0, 9)
    saving.save("whole")
    parts, saving = scaled_training(tmp_path)
    parts.model.load_state_dict(start)
    parts.train(0, 5)
    saving.save("parts")
    again, saving = scaled_training(tmp_path)
    saving.resume_or_load("", resume=True)
    again.train(5, 9)
    saving.save("again")
    ends = [torch.load(tmp_path / f"{name}.pth") for name in ("whole", "again")]
    assert ends[0]["trainer"]["grad_scaler"]["scale"] != 2.0**17
    assert differences(*ends) == []


class Loader:
    """One that can start anywhere, or not."""

    def __init__(self, can_start: bool) -> None:
        self.started: list[tuple[int, int]] = []
        if can_start:
            self.start_at = lambda *where: self.started.append(where)


def begun(state: dict[str, int] | None, seed: str, *, can_start: bool = True) -> Loader:
    """The loader of a training that goes on after 10 steps of 16 images, from a hook's state."""
    hook = ExactResume(load_config("", ["SEED", seed]))
    if state is not None:
        hook.load_state_dict(state)
    loader = Loader(can_start)
    hook.trainer = argparse.Namespace(start_iter=10, data_loader=loader, iter=10)
    hook.before_train()
    return loader


def test_a_seed_that_was_drawn_is_kept_and_one_of_the_config_counts(
    caplog: pytest.LogCaptureFixture,
) -> None:
    state = {"seed": 77, "num_images": 96}
    assert begun(state, "-1").started == [(77, 96)]
    assert begun(state, "77").started == [(77, 96)]
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    assert begun(state, "5").started == [(5, 96)]
    assert "SEED is 5, but the checkpoint is of a training with 77" in caplog.text


def test_checkpoints_that_do_not_say_how_much_was_read_go_by_their_steps() -> None:
    assert begun(None, "5").started == [(5, 160)]


def test_a_loader_that_begins_anew_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    begun(None, "5", can_start=False)
    assert "its data, a Loader, begins anew" in caplog.text
