"""Own data as a user trains on it: fine-tune, evaluate, use, with nothing but files and folders."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import torch

from instseg_d2.config import load_config
from instseg_d2.modeling import build_model
from instseg_d2.predictor import Predictor
from instseg_d2.weights.file_writing import write_weights_file
from tests.own_data import VAL_IDS, OwnFiles, write_own_data
from tests.training_runs import AS_IN_TRAINING, FIND_SOMETHING, RESULTS, train_net

pytestmark = pytest.mark.usefixtures("no_own_data_left")

OPTIONS = [
    *("--train-json", "data/train.json", "--train-images", "data/images/train"),
    *("--val-json", "data/val.json", "--val-images", "data/images/val"),
]
OF_THE_DATA = ("DATASETS.TRAIN", "DATASETS.TEST", "MODEL.SPARSE_INST.DECODER.NUM_CLASSES")


@pytest.fixture(scope="session")
def tiny(tiny_overrides: list[str]) -> list[str]:
    """A tiny model; what own data sets by itself is left to it."""
    pairs = zip(tiny_overrides[::2], tiny_overrides[1::2], strict=True)
    return [word for key, value in pairs if key not in OF_THE_DATA for word in (key, value)]


@pytest.fixture(scope="module")
def finetuned(
    repo: Path, tmp_path_factory: pytest.TempPathFactory, tiny: list[str]
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The folder of a run that went on from a model of 80 classes, and what it printed."""
    folder = tmp_path_factory.mktemp("own")
    write_own_data(folder / "data")
    model = build_model(load_config("sparseinst/finetune", tiny))
    write_weights_file(str(folder / "coco.pth"), model.state_dict())
    done = train_net(
        repo, folder, "--config-file", "sparseinst/finetune", *OPTIONS,
        *tiny, *FIND_SOMETHING, "OUTPUT_DIR", "out", "MODEL.WEIGHTS", "coco.pth",
    )  # fmt: skip
    return folder, done


@pytest.mark.slow
def test_finetuning_needs_nothing_but_files_and_folders(
    finetuned: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, done = finetuned
    assert done.returncode == 0, done.stdout + done.stderr
    assert "class 2, washer" in done.stdout
    assert "cls_score.weight: (80, 64) -> (3, 64)" in done.stdout
    assert "2 images a step, 4 steps: 1.143 epochs of 7 images" in done.stdout
    assert "SOLVER.BASE_LR 1.563e-06" in done.stdout
    assert "starts from random values" not in done.stdout
    assert "copypaste: Task: segm" in done.stdout
    results = json.loads((folder / "out" / RESULTS).read_text())
    assert {result["category_id"] for result in results} <= VAL_IDS.keys()
    weights = torch.load(folder / "out" / "model_final.pth", weights_only=True)["model"]
    assert weights["decoder.inst_branch.cls_score.weight"].shape == (3, 64)


@pytest.mark.slow
def test_the_saved_config_evaluates_from_anywhere(
    repo: Path, finetuned: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    out = finetuned[0] / "out"
    done = train_net(
        repo, tmp_path, "--config-file", str(out / "config.yaml"), "--eval-only",
        *AS_IN_TRAINING, "OUTPUT_DIR", "again", "MODEL.WEIGHTS", str(out / "model_final.pth"),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    results = [json.loads((folder / RESULTS).read_text()) for folder in (out, tmp_path / "again")]
    assert len(results[0]) > 0
    assert results[0] == results[1]


@pytest.mark.slow
def test_classes_in_another_order_are_not_evaluated(
    finetuned: tuple[Path, subprocess.CompletedProcess[str]],
    tiny: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without the run's config the ids of the validation data number the classes."""
    monkeypatch.chdir(finetuned[0])
    with pytest.raises(SystemExit, match="class 0 is 'bolt' there, and 'nut' in the data"):
        run_main(
            monkeypatch, "--config-file", "sparseinst/finetune", "--eval-only", *OPTIONS[4:],
            *tiny, "OUTPUT_DIR", "other", "MODEL.WEIGHTS", "out/model_final.pth",
        )  # fmt: skip


@pytest.mark.slow
def test_the_saved_config_predicts_with_the_classes_names(
    finetuned: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder = finetuned[0]
    cfg = load_config(
        folder / "out" / "config.yaml", ["MODEL.WEIGHTS", str(folder / "out" / "model_final.pth")]
    )
    predictor = Predictor(cfg)
    assert predictor.metadata is not None
    assert predictor.metadata.thing_classes == ["bolt", "nut", "washer"]
    image = cv2.imread(str(folder / "data" / "images" / "val" / "a" / "0.png"))
    assert "instances" in predictor(image)


def run_main(monkeypatch: pytest.MonkeyPatch, *args: str) -> None:
    monkeypatch.setattr(sys, "argv", ["train_net.py", *args])
    importlib.import_module("train_net").main()


def test_deepmask_without_validation_data(
    tmp_path: Path, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Classes of no meaning to it, and no evaluation."""
    own = write_own_data(tmp_path)
    options = own.options()[:4]
    output = tmp_path / "out"
    config = ["--config-file", "sharpmask/deepmask_r50"]
    run_main(monkeypatch, *config, *options, *tiny, "OUTPUT_DIR", str(output))
    assert (output / "model_final.pth").is_file()
    log = (output / "log.txt").read_text()
    assert "No validation data: trained without evaluation" in log
    assert "2 patches a step, 4 steps" in log
    assert "copypaste" not in log


def without(own: OwnFiles, *left_out: str) -> list[str]:
    options = own.options()
    pairs = zip(options[::2], options[1::2], strict=True)
    return [word for option, value in pairs if option not in left_out for word in (option, value)]


@pytest.mark.parametrize(
    ("left_out", "more", "message"),
    [
        (["--train-images"], [], "--train-json .* without --train-images"),
        (["--val-images"], ["--eval-only"], "--val-json .* without --val-images"),
        (["--train-json", "--train-images"], [], "no data to train on"),
        (["--val-json", "--val-images"], ["--eval-only"], "no data to evaluate on"),
        (["--val-json"], ["--val-json", "gone.json"], r"gone\.json is absent"),
    ],
)
def test_a_slip_ends_in_a_message(
    tmp_path: Path,
    tiny: list[str],
    monkeypatch: pytest.MonkeyPatch,
    left_out: list[str],
    more: list[str],
    message: str,
) -> None:
    own = write_own_data(tmp_path)
    config = ["--config-file", "sparseinst/finetune"]
    with pytest.raises(SystemExit, match=f"^error: .*{message}"):
        run_main(monkeypatch, *config, *without(own, *left_out), *more, *tiny)


def test_options_after_the_overrides_are_explained(
    tmp_path: Path, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = write_own_data(tmp_path)
    with pytest.raises(SystemExit, match="--train-json stands among the overrides"):
        run_main(monkeypatch, "--config-file", "sparseinst/finetune", *tiny, *own.options())
