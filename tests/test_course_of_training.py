"""What a user sees of a training: one run with everything on, then the same resumed."""

from pathlib import Path

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from instseg_d2.config import load_config
from instseg_d2.modeling import build_model, build_trained_model
from tests.training_runs import FIND_SOMETHING, train_net

CONFIG = "sparseinst/sparse_inst_r50_giam"
SETTINGS = {
    "SOLVER.ACCUMULATE_STEPS": 2,
    "SOLVER.MAX_ITER": 8,
    "SOLVER.CHECKPOINT_PERIOD": 4,
    "MODEL.EMA.ENABLED": True,
    "TEST.BEST.METRIC": "segm/AP",
    "TEST.EVAL_PERIOD": 2,
    # The first evaluation sets the mark; no other improves by so much.
    "TEST.EARLY_STOPPING.MIN_DELTA": 1000.0,
    "VIS_PERIOD": 3,
    "OUTPUT_DIR": "out",
}


def train(repo: Path, folder: Path, *args: str) -> str:
    """What the program printed."""
    done = train_net(repo, folder, "--config-file", CONFIG, *args)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def overrides(tiny_overrides: list[str]) -> list[str]:
    return [
        *tiny_overrides,
        *FIND_SOMETHING,
        *(str(part) for pair in SETTINGS.items() for part in pair),
    ]


@pytest.fixture(scope="module")
def runs(
    repo: Path, tmp_path_factory: pytest.TempPathFactory, overrides: list[str]
) -> tuple[Path, list[str]]:
    """The folder of a training to its end, resumed with patience; and what both printed."""
    folder = tmp_path_factory.mktemp("course")
    printed = [train(repo, folder, *overrides)]
    more = [*overrides, "SOLVER.MAX_ITER", "40", "TEST.EARLY_STOPPING.PATIENCE", "5"]
    printed.append(train(repo, folder, "--resume", *more))
    return folder / "out", printed


@pytest.mark.slow
def test_metrics_and_pictures_are_in_tensorboard(runs: tuple[Path, list[str]]) -> None:
    out, _ = runs
    events = EventAccumulator(str(out), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    tags = events.Tags()
    assert {
        "total_loss", "loss_ce", "loss_mask", "loss_dice", "loss_objectness", "lr", "grad_norm",
        "ema_decay", "segm/AP", "bbox/AP",
    } <= set(tags["scalars"])  # fmt: skip
    assert all(event.value > 0 for event in events.Scalars("grad_norm"))
    assert set(tags["images"]) == {"ground truth and prediction", "activation maps"}
    assert [event.step for event in events.Images("activation maps")][:2] == [2, 5]
    assert all(event.width > 1000 for event in events.Images("activation maps"))


@pytest.mark.slow
def test_the_run_is_told_and_ended(runs: tuple[Path, list[str]]) -> None:
    """Of its four evaluations the first run counted three without improvement; after two more,
    which end at step 12, the patience of five is over."""
    out, (first, second) = runs
    assert first.count("Evaluating the moving average of the weights") == 4
    assert "Early stopping" not in first
    assert "Starting training from iteration 8" in second
    assert "Early stopping: segm/AP has not improved in 5 evaluations" in second
    assert (out / "last_checkpoint").read_text() == "model_final.pth"
    final = torch.load(out / "model_final.pth", weights_only=True)
    assert second.count("Evaluating the moving average of the weights") == 2
    assert final["iteration"] == 11
    assert final["trainer"]["hooks"]["Selection"]["num_stale"] == 5


@pytest.mark.slow
def test_checkpoints_are_of_use_as_they_are(
    runs: tuple[Path, list[str]], tiny_overrides: list[str]
) -> None:
    """The average, for us and for Detectron2; beside it what is being trained."""
    out, _ = runs
    final = torch.load(out / "model_final.pth", weights_only=True)
    assert final["ema"]["num_updates"] == final["iteration"] + 1
    name = "decoder.inst_branch.cls_score.weight"
    assert not torch.equal(final["model"][name], final["ema"]["trained"][name])
    for file in ("model_final.pth", "model_best.pth", "model_0000003.pth"):
        cfg = load_config(CONFIG, [*tiny_overrides, "MODEL.WEIGHTS", str(out / file)])
        ours = build_trained_model(cfg).state_dict()
        theirs = build_model(cfg)
        DetectionCheckpointer(theirs).load(cfg.MODEL.WEIGHTS)
        expected = torch.load(out / file, weights_only=True)["model"]
        assert torch.equal(ours[name], expected[name])
        assert torch.equal(theirs.state_dict()[name], expected[name])
