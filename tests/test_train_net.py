"""The program as a user runs it: train, resume, evaluate, and slips that end in one line."""

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from tests.training_runs import AS_IN_TRAINING, FIND_SOMETHING, RESULTS, train_net

CONFIG = "sparseinst/sparse_inst_r50_giam"


@pytest.fixture(scope="module")
def trained(
    repo: Path, tmp_path_factory: pytest.TempPathFactory, tiny_overrides: list[str]
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The folder of a finished short run, and what it printed."""
    folder = tmp_path_factory.mktemp("trained")
    args = ["--config-file", CONFIG, *tiny_overrides, *FIND_SOMETHING, "OUTPUT_DIR", "out"]
    done = train_net(repo, folder, *args)
    return folder, done


def test_training_writes_everything(
    trained: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, done = trained
    assert done.returncode == 0, done.stdout + done.stderr
    out = folder / "out"
    assert (out / "model_final.pth").is_file()
    assert (out / "config.yaml").is_file()
    assert list(out.glob("events.out.tfevents.*"))
    results = json.loads((out / RESULTS).read_text())
    assert {"image_id", "category_id", "bbox", "score", "segmentation"} <= set(results[0])
    metrics = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    assert {"loss_ce", "loss_mask", "loss_dice", "loss_objectness", "lr", "segm/AP"} <= set().union(
        *metrics
    )
    assert "copypaste: Task: segm" in done.stdout
    assert "copypaste: Task: bbox" in done.stdout


def test_eval_only_gives_the_results_of_the_training_run(
    repo: Path,
    trained: tuple[Path, subprocess.CompletedProcess[str]],
    tiny_overrides: list[str],
    tmp_path: Path,
) -> None:
    folder, _ = trained
    weights = str(folder / "out" / "model_final.pth")
    done = train_net(
        repo, tmp_path, "--config-file", CONFIG, "--eval-only",
        *tiny_overrides, *FIND_SOMETHING, "OUTPUT_DIR", "again", "MODEL.WEIGHTS", weights,
        *AS_IN_TRAINING,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    results = [
        json.loads((out / RESULTS).read_text()) for out in (folder / "out", tmp_path / "again")
    ]
    assert len(results[0]) > 0
    assert results[0] == results[1]


def test_resume_continues_after_the_last_iteration(
    repo: Path,
    trained: tuple[Path, subprocess.CompletedProcess[str]],
    tiny_overrides: list[str],
) -> None:
    folder, _ = trained
    more = [*tiny_overrides, *FIND_SOMETHING, "OUTPUT_DIR", "out", "SOLVER.MAX_ITER", "6"]
    done = train_net(repo, folder, "--config-file", CONFIG, "--resume", *more)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Starting training from iteration 4" in done.stdout
    final = torch.load(folder / "out" / "model_final.pth", weights_only=True)
    assert final["iteration"] == 5


def test_a_training_that_is_over_says_so_when_it_is_resumed(
    repo: Path,
    trained: tuple[Path, subprocess.CompletedProcess[str]],
    tiny_overrides: list[str],
) -> None:
    folder, _ = trained
    same = [*tiny_overrides, "OUTPUT_DIR", "out", "SOLVER.MAX_ITER", "3", "DATASETS.TEST", "()"]
    done = train_net(repo, folder, "--config-file", CONFIG, "--resume", *same)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "and SOLVER.MAX_ITER is 3. To go on, raise SOLVER.MAX_ITER." in done.stdout


def test_config_by_path_with_a_base_of_its_own(
    repo: Path, tmp_path: Path, tiny_overrides: list[str]
) -> None:
    base = repo / "configs" / "sparseinst" / "Base-SparseInst.yaml"
    (tmp_path / "Base-SparseInst.yaml").write_text(base.read_text())
    (tmp_path / "mine.yaml").write_text("_BASE_: Base-SparseInst.yaml\nSOLVER: {MAX_ITER: 1}\n")
    overrides = [*tiny_overrides, "SOLVER.MAX_ITER", "1", "DATASETS.TEST", "()"]
    done = train_net(repo, tmp_path, "--config-file", "mine.yaml", *overrides)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def faulty_datasets() -> Iterator[None]:
    """``absent_set`` has no annotation file, ``absent_kind`` no evaluator."""
    register_coco_instances("absent_set", {}, "gone.json", "gone")
    record = {"file_name": __file__, "image_id": 1, "height": 4, "width": 4, "annotations": []}
    DatasetCatalog.register("absent_kind", lambda: [record])
    yield
    for name in ("absent_set", "absent_kind"):
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name, None)


SLIPS = {
    "unknown key": (["SOLVER.BASE_LEARNING_RATE", "1"], "SOLVER.BASE_LR"),
    "wrong type": (["SOLVER.BASE_LR", "'fast'"], "SOLVER.BASE_LR"),
    "odd overrides": (["SOLVER.BASE_LR"], "pairs"),
    "unknown data set": (["DATASETS.TRAIN", "('shapes_trian',)"], "shapes_train"),
    "missing annotations": (["DATASETS.TRAIN", "('absent_set',)"], "gone.json does not exist"),
    "float16 on the CPU": (
        ["SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.DTYPE", "float16"],
        "SOLVER.AMP.DTYPE bfloat16",
    ),
    "unknown precision": (["SOLVER.AMP.DTYPE", "half"], "auto, float16 and bfloat16"),
    "backbone features": (["MODEL.RESNETS.OUT_FEATURES", "['res4']"], "IN_FEATURES names res3"),
    "nothing to train on": (["DATASETS.TRAIN", "()"], "DATASETS.TRAIN is empty"),
    "no evaluation": (["DATASETS.TEST", "('absent_kind',)"], "evaluator type"),
    "class count": (
        ["MODEL.SPARSE_INST.DECODER.NUM_CLASSES", "5"],
        "MODEL.SPARSE_INST.DECODER.NUM_CLASSES",
    ),
    "missing weights": (["MODEL.WEIGHTS", "nowhere.pth"], "nowhere.pth"),
    "no CUDA": (["MODEL.DEVICE", "cuda"], "MODEL.DEVICE cpu"),
    "unknown decoder": (["MODEL.SPARSE_INST.DECODER.NAME", "IAMDecoder"], "GroupIAMDecoder"),
    "unknown backbone": (["MODEL.BACKBONE.NAME", "build_resnet"], "build_resnet_backbone"),
    "unknown optimiser": (["SOLVER.OPTIMIZER", "LION"], "ADAMW"),
    "groups": (["MODEL.SPARSE_INST.DECODER.GROUPS", "7"], "MODEL.SPARSE_INST.DECODER.GROUPS"),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_ends_in_a_message(
    tmp_path: Path,
    tiny_overrides: list[str],
    slip: str,
    monkeypatch: pytest.MonkeyPatch,
    faulty_datasets: None,
) -> None:
    """In this process, because importing Detectron2 takes seconds."""
    if slip == "no CUDA" and torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    overrides, hint = SLIPS[slip]
    args = ["--config-file", CONFIG, *tiny_overrides, "OUTPUT_DIR", str(tmp_path), *overrides]
    monkeypatch.setattr(sys, "argv", ["train_net.py", *args])
    with pytest.raises(SystemExit) as exit_info:
        importlib.import_module("train_net").main()
    message = str(exit_info.value.code)
    assert message.startswith("error: ")
    assert hint in message


@pytest.mark.parametrize("workers", ["0", "1"])
def test_an_unreadable_image_is_named_also_from_a_worker(
    tmp_path: Path, tiny_overrides: list[str], monkeypatch: pytest.MonkeyPatch, workers: str
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_text("no image")
    annotation = {
        "bbox": [1, 1, 9, 9], "bbox_mode": 1, "category_id": 0,
        "segmentation": [[1, 1, 9, 1, 9, 9, 1, 9]],
    }  # fmt: skip
    record = {
        "file_name": str(broken), "image_id": 77, "height": 10, "width": 10,
        "annotations": [annotation],
    }  # fmt: skip
    DatasetCatalog.register("broken_image", lambda: [record])
    args = ["--config-file", CONFIG, *tiny_overrides, "OUTPUT_DIR", str(tmp_path)]
    args += ["DATASETS.TRAIN", "('broken_image',)", "DATASETS.TEST", "()"]
    monkeypatch.setattr(sys, "argv", ["train_net.py", *args, "DATALOADER.NUM_WORKERS", workers])
    try:
        with pytest.raises(SystemExit) as exit_info:
            importlib.import_module("train_net").main()
    finally:
        DatasetCatalog.remove("broken_image")
    message = str(exit_info.value.code)
    assert message.startswith(f"error: image {broken} (image id 77) cannot be read")
    assert "Traceback" not in message


@pytest.mark.parametrize(
    ("gpus", "message"), [("0", "DATASETS.TRAIN is empty"), ("3", "3 processes cannot share")]
)
def test_numbers_of_gpus_without_a_gpu(
    tmp_path: Path,
    tiny_overrides: list[str],
    monkeypatch: pytest.MonkeyPatch,
    gpus: str,
    message: str,
) -> None:
    """None is one process on the CPU, which comes as far as the data; three are three processes,
    and two images a step too few for them."""
    args = ["--config-file", CONFIG, "--num-gpus", gpus, *tiny_overrides]
    args += ["OUTPUT_DIR", str(tmp_path), "DATASETS.TRAIN", "()"]
    monkeypatch.setattr(sys, "argv", ["train_net.py", *args])
    with pytest.raises(SystemExit, match=message):
        importlib.import_module("train_net").main()


def test_evaluating_untrained_weights_is_refused(
    tmp_path: Path, tiny_overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ["--config-file", CONFIG, "--eval-only", *tiny_overrides, "OUTPUT_DIR", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["train_net.py", *args])
    with pytest.raises(SystemExit, match="untrained"):
        importlib.import_module("train_net").main()


def test_the_shell_sees_one_line_and_a_failure(repo: Path, tmp_path: Path) -> None:
    done = train_net(repo, tmp_path, "--config-file", "sparseinst/sparse_inst_r50_gaim.yaml")
    assert done.returncode == 1
    lines = done.stderr.strip().splitlines()
    assert lines[-1].startswith("error: ")
    assert "Traceback" not in done.stderr
    assert "sparseinst/sparse_inst_r50_giam" in lines[-1]
