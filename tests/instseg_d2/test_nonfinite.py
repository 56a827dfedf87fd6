"""Steps that are not finite: what is reported and saved, and that nothing of them remains."""

import logging
import pickle
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from instseg_d2.config import load_config
from instseg_d2.data.config_datasets import register_config_datasets
from instseg_d2.engine import Trainer
from instseg_d2.engine.nonfinite import StepGuard, check_nonfinite
from instseg_d2.engine.replay import FORMAT, StepRecord, replay, replay_with
from instseg_d2.errors import ConfigError, DataError, NonFiniteStepError, UserError
from tests.two_processes import spawn_two


class Net(nn.Module):
    """A batch norm, dropout, and two losses, of which the second takes a root."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.norm = nn.BatchNorm1d(3)
        self.drop = nn.Dropout(0.5)
        self.root = nn.Parameter(torch.ones(()))

    def forward(self, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
        x = torch.stack([inputs["image"] for inputs in batch])
        root = (self.root * x[0, 0]).abs().sqrt()
        return {"loss_a": self.drop(self.norm(self.linear(x))).square().mean(), "loss_b": root}


def batch_of(first: float = 1.0, file_name: str = "a.jpg") -> list[dict[str, Any]]:
    image = torch.randn(3)
    image[0] = first
    return [
        {"image": image, "file_name": file_name, "image_id": 5},
        {"image": torch.randn(3), "file_name": "b.jpg"},
    ]


def guarded(folder: Path, **options: Any) -> tuple[Net, StepGuard]:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.25)
    return model, StepGuard(model, optimizer, output_dir=str(folder), **options)


def step(
    model: nn.Module, guard: StepGuard, batch: list[dict[str, Any]], iteration: int = 12
) -> bool:
    """What the training loop does, without the optimiser's step."""
    guard.before_step([batch])
    losses = model(batch)
    guard.optimizer.zero_grad()
    total = sum(losses.values())
    (total if guard.grad_scaler is None else guard.grad_scaler.scale(total)).backward()
    return guard.allows_step(iteration, losses)


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


# ---------------------------------------------------------------------------------- decisions


def test_a_finite_step_is_taken(tmp_path: Path) -> None:
    model, guard = guarded(tmp_path)
    assert step(model, guard, batch_of())
    assert model.linear.weight.grad is not None
    assert list(tmp_path.iterdir()) == []


def test_a_step_that_is_not_finite_raises_and_says_all(tmp_path: Path) -> None:
    model, guard = guarded(tmp_path)
    with pytest.raises(NonFiniteStepError) as caught:
        step(model, guard, batch_of(torch.inf))
    assert isinstance(caught.value, (UserError, FloatingPointError))
    message = str(caught.value)
    path = tmp_path / "nonfinite_0000012.pth"
    for part in (
        "iteration 12: ", "loss_a is nan, loss_b is inf", "learning rate: 0.25",
        "gradient norm: nan", "a.jpg (image id 5), b.jpg", f"tools/replay_batch.py {path}",
        "SOLVER.ON_NONFINITE skip",
    ):  # fmt: skip
        assert part in message
    assert path.exists()


def test_a_gradient_alone_is_enough_and_its_weights_are_named(tmp_path: Path) -> None:
    """The derivative of the root at 0."""
    model, guard = guarded(tmp_path)
    nn.init.zeros_(model.root)
    with pytest.raises(NonFiniteStepError, match="no finite gradient for root") as caught:
        step(model, guard, batch_of())
    assert "loss_b 0" in str(caught.value)


def test_gradients_whose_squares_overflow_are_finite(tmp_path: Path) -> None:
    model, guard = guarded(tmp_path)
    guard.before_step([batch_of()])
    model.root.grad = torch.tensor(1e30)
    assert guard.allows_step(0, {"loss": torch.tensor(1.0)})


def test_nothing_remains_of_a_step_that_is_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, guard = guarded(tmp_path, action="skip")
    assert step(model, guard, batch_of())
    before = state_of(model)
    with caplog.at_level(logging.WARNING):
        assert not step(model, guard, batch_of(torch.nan))
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert "Skipped, 1 of at most 10" in caplog.text
    assert step(model, guard, batch_of())


def test_the_skips_are_counted_also_over_a_resumed_training(tmp_path: Path) -> None:
    model, guard = guarded(tmp_path, action="skip", max_skips=2)
    assert not step(model, guard, batch_of(torch.nan), 1)
    assert step(model, guard, batch_of(), 2)
    resumed_model, resumed = guarded(tmp_path, action="skip", max_skips=2)
    resumed.load_state_dict(guard.state_dict())
    assert not step(resumed_model, resumed, batch_of(torch.nan), 3)
    with pytest.raises(NonFiniteStepError, match=r"MAX_NONFINITE_SKIPS allows, 2"):
        step(resumed_model, resumed, batch_of(torch.nan), 4)


@pytest.mark.parametrize(("scale", "allowed"), [(65536.0, True), (1.0, False)])
def test_a_scaler_that_searches_is_left_alone_until_its_scale_is_1(
    tmp_path: Path, scale: float, allowed: bool
) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    model, guard = guarded(tmp_path, action="skip", grad_scaler=scaler)
    nn.init.zeros_(model.root)
    assert step(model, guard, batch_of()) == allowed
    assert not step(model, guard, batch_of(torch.nan))  # the loss counts whatever the scale


@pytest.mark.parametrize("error", [OSError("No space left"), RuntimeError("unexpected pos 64")])
def test_a_step_that_cannot_be_saved_is_reported_nevertheless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """PyTorch's writer has an error of its own for a full disk."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(torch, "save", fail)
    model, guard = guarded(tmp_path)
    with pytest.raises(NonFiniteStepError, match=rf"loss_b is nan(.|\n)*not be saved: {error}"):
        step(model, guard, batch_of(torch.nan))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("ON_NONFINITE", "ignore", "'ignore'; known are raise and skip"),
        ("MAX_NONFINITE_SKIPS", "-1", "-1; it must be at least 0"),
    ],
)
def test_settings_that_cannot_be_followed_are_refused(key: str, value: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        check_nonfinite(load_config("", [f"SOLVER.{key}", value]))


# ------------------------------------------------------------------------------------ replay


def test_a_saved_step_is_the_same_once_more(tmp_path: Path) -> None:
    """With the batch norm and the dropout as they were before it."""
    model, guard = guarded(tmp_path, action="skip")
    step(model, guard, batch_of(), 0)
    guard.optimizer.step()
    nn.init.zeros_(model.root)  # the gradient alone is not finite
    step(model, guard, batch_of(2.0), 1)
    record = StepRecord.load(str(tmp_path / "nonfinite_0000001.pth"))
    again = Net().train()
    again.load_state_dict(record.model)
    random_state = torch.get_rng_state()
    replayed = replay_with(record, again, "cpu")
    assert torch.equal(torch.get_rng_state(), random_state)
    assert replayed.losses == record.losses
    assert replayed.first == "in the backward pass: the gradient of the weights root"
    assert [item["file_name"] for item in record.batches[0]] == ["a.jpg", "b.jpg"]


class Harmful:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("harm"),))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_files_of_strangers_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"format": Harmful()}, "harmful.pth")
    Path("pickle.pth").write_bytes(pickle.dumps(Harmful()))
    Path("text.pth").write_text("hello")
    torch.save({"model": {}}, "checkpoint.pth")
    torch.save({"format": FORMAT, "batches": []}, "part.pth")
    no_instances = [[{"__class__": "Instances", "image_size": 3, "gt_boxes": 2}]]
    torch.save({"format": FORMAT, "batches": no_instances}, "odd.pth")
    for name in ("harmful", "pickle", "text", "checkpoint", "part", "odd"):
        with pytest.raises(DataError, match=rf"{name}\.pth"):
            StepRecord.load(f"{name}.pth")
    assert not Path("harm").exists()


# ---------------------------------------------------------------------------- whole trainings


def spoiled(batches: Iterable[list[dict[str, Any]]]) -> Iterator[list[dict[str, Any]]]:
    for number, batch in enumerate(batches):
        if number == 3:
            batch[0]["image"] = torch.full(batch[0]["image"].shape, torch.nan)
        yield batch


class SpoiledTrainer(Trainer):
    """Meets an image that is not finite in its fourth batch."""

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Iterator[list[dict[str, Any]]]:
        return spoiled(super().build_train_loader(cfg))


def spoiled_training(overrides: list[str], output: Path, *more: str) -> SpoiledTrainer:
    cfg = load_config("sparseinst/sparse_inst_r50_giam", [*overrides, *more])
    cfg.OUTPUT_DIR, cfg.DATASETS.TEST = str(output), ()
    register_config_datasets(cfg)
    trainer = SpoiledTrainer(cfg)
    trainer.resume_or_load(resume=True)
    return trainer


MORE = {
    "float32": [],
    "bfloat16": ["SOLVER.AMP.ENABLED", "True"],
    "accumulation": ["SOLVER.ACCUMULATE_STEPS", "2"],
}


@pytest.mark.parametrize("name", MORE)
def test_a_training_names_the_images_and_the_step_can_be_replayed(
    tiny_overrides: list[str], tmp_path: Path, name: str
) -> None:
    trainer = spoiled_training(tiny_overrides, tmp_path, *MORE[name])
    with pytest.raises(NonFiniteStepError, match=r"loss_ce is nan(.|\n)*\.png \(image id "):
        trainer.train()
    iteration = 1 if name == "accumulation" else 3
    record = StepRecord.load(str(tmp_path / f"nonfinite_{iteration:07d}.pth"))
    assert record.precision == ("bfloat16" if name == "bfloat16" else "float32")
    assert len(record.batches) == (2 if name == "accumulation" else 1)
    replayed = replay(record)
    spoiled = record.batches[-1][0]["file_name"]
    assert replayed.first == f"in the data: image {spoiled}"
    assert replayed.losses == pytest.approx(record.losses, nan_ok=True)


def test_a_training_that_skips_goes_on_and_remembers(
    tiny_overrides: list[str], tmp_path: Path
) -> None:
    skip = ["SOLVER.ON_NONFINITE", "skip", "SOLVER.MAX_ITER"]
    trainer = spoiled_training(tiny_overrides, tmp_path, *skip, "5")
    trainer.train()
    final = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert final["iteration"] == 4
    assert all(torch.isfinite(value).all() for value in final["model"].values())
    assert trainer.storage.histories()["nonfinite_skips"].latest() == 1
    resumed = spoiled_training(tiny_overrides, tmp_path, *skip, "6")
    assert resumed._trainer.guard.num_skipped == 1


# ------------------------------------------------------------------------- several processes


def worker(rank: int, folder: Path) -> None:
    """Two steps; in the first one the loss of the second process alone is NaN."""
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Linear(2, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    guard = StepGuard(model, optimizer, action="skip", output_dir=str(folder))
    taken = []
    for iteration in range(2):
        batch = [{"image": torch.ones(2), "file_name": f"{rank}.jpg"}]
        guard.before_step([batch])
        loss = model(batch[0]["image"]).mean()
        optimizer.zero_grad()
        loss.backward()
        if rank == 1 and iteration == 0:  # the gradients are finite everywhere
            loss = loss * torch.nan
        taken.append(guard.allows_step(iteration, {"loss": loss}))
        if taken[-1]:
            optimizer.step()
    torch.save((taken, model.module.state_dict()), f"{folder}/{rank}.pth")


@pytest.mark.slow
def test_processes_skip_the_same_steps(tmp_path: Path) -> None:
    spawn_two(worker, tmp_path)
    (first, one), (second, two) = (torch.load(tmp_path / f"{rank}.pth") for rank in range(2))
    assert first == second == [False, True]
    torch.testing.assert_close(one, two, rtol=0, atol=0)
    saved = sorted(path.name for path in tmp_path.glob("nonfinite*"))
    assert saved == ["nonfinite_0000000_rank1.pth"]
