"""The program's table, files and messages, on both file formats."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from instseg_d2.data.image_proposals import ImageProposals
from instseg_d2.data.proposal_files import proposal_writer
from sharpmask_d2.proposal_recall import BOXES, MASKS
from tests.sharpmask_d2.recall_cases import coco_recalls, random_content, random_proposals
from tools.evaluate_proposals import main

REPO = Path(__file__).resolve().parents[2]


Evaluate = Callable[..., tuple[str, str]]


@pytest.fixture
def evaluate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Evaluate:
    """Runs the program in the test's folder; what it printed, and its error message or ""."""

    def run(*args: str) -> tuple[str, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sys.argv", ["evaluate_proposals.py", *args])
        message = ""
        try:
            main()
        except SystemExit as stop:
            message = str(stop.code)
        return capsys.readouterr().out, message

    return run


Case = tuple[dict[str, Any], list[ImageProposals]]


@pytest.fixture
def case(tmp_path: Path) -> Case:
    """Four images; annotations.json, proposals.json and proposals.pkl lie in the test's folder."""
    generator = np.random.default_rng(3)
    content = random_content(generator, num_images=4)
    proposals = random_proposals(generator, content)
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    for suffix in ("pkl", "json"):
        with proposal_writer(tmp_path / f"proposals.{suffix}") as writer:
            for image in proposals:
                writer.add(image)
    return content, proposals


@pytest.mark.parametrize(("suffix", "tasks"), [("json", [BOXES, MASKS]), ("pkl", [BOXES])])
def test_both_formats(
    tmp_path: Path, case: Case, evaluate: Evaluate, suffix: str, tasks: list[str]
) -> None:
    content, proposals = case
    printed, message = evaluate(
        *("--proposals", f"proposals.{suffix}", "--annotations", "annotations.json"),
        *("--limits", "10,2", "--output", "out/recall"),
    )
    assert message == ""
    assert "on annotations.json: 4 images" in printed
    written = json.loads((tmp_path / "out" / "recall" / "proposal_recall.json").read_text())
    assert [task for task in (BOXES, MASKS) if task in written] == tasks
    expected = coco_recalls(content, proposals, (1, 2, 10))
    for task in tasks:
        for index, limit in ((1, 2), (2, 10)):
            average = 100 * expected[task][:, 0, index].mean()
            assert written[task][f"AR@{limit}"] == pytest.approx(average)
            assert f"{average:.1f}" in printed
    assert (tmp_path / "out" / "recall" / "recall_against_count.png").exists()


def test_images_that_the_file_does_not_list(tmp_path: Path, case: Case, evaluate: Evaluate) -> None:
    content, proposals = case
    with proposal_writer(tmp_path / "one.pkl") as writer:
        writer.add(proposals[0])
    args = ("--proposals", "one.pkl", "--annotations", "annotations.json", "--output", "out")
    printed, _ = evaluate(*args)
    assert "3 images had no proposals given" in printed
    printed, _ = evaluate(*args, "--images-in-file")
    assert "1 of its 4 images" in printed
    written = json.loads((tmp_path / "out" / "proposal_recall.json").read_text())
    first = [a for a in content["annotations"] if a["image_id"] == 1 and not a["iscrowd"]]
    in_range = [a for a in first if a["area"] <= 1e10]
    assert written["curves"][BOXES]["all"]["objects"] == len(in_range)


def test_a_file_without_proposals(tmp_path: Path, case: Case, evaluate: Evaluate) -> None:
    (tmp_path / "none.json").write_text("[]")
    _, message = evaluate("--proposals", "none.json", "--annotations", "annotations.json")
    assert "none.json has no proposals" in message


def test_mistakes_end_in_one_line(tmp_path: Path, case: Case, evaluate: Evaluate) -> None:
    _, proposals = case
    with proposal_writer(tmp_path / "other.pkl") as writer:
        writer.add(replace(proposals[0], image_id=77))
    here = ("--annotations", "annotations.json")
    mistakes = {
        "absent.pkl": ("--proposals", "absent.pkl", *here),
        "image id 77": ("--proposals", "other.pkl", *here),
        "nowhere.json does not exist": (
            "--proposals", "proposals.pkl", "--annotations", "nowhere.json",
        ),
        "'no_such_data' is not registered": (
            "--proposals", "proposals.pkl", "--dataset", "no_such_data",
        ),
    }  # fmt: skip
    for expected, args in mistakes.items():
        _, message = evaluate(*args)
        assert message.startswith("error: ")
        assert expected in message


def test_embedded_data_from_the_command_line(tmp_path: Path) -> None:
    with proposal_writer(tmp_path / "boxes.pkl") as writer:
        for image_id in range(1, 4):
            box = np.float32([[0, 0, 64, 64]])
            writer.add(ImageProposals(image_id, box, np.float32([0.0])))
    done = subprocess.run(
        [
            *(sys.executable, str(REPO / "tools" / "evaluate_proposals.py")),
            *("--proposals", "boxes.pkl", "--dataset", "shapes_val", "--limits", "1,20"),
            *("--output", "out", "DATASETS.SHAPES.NUM_TRAIN", "1", "DATASETS.SHAPES.NUM_VAL", "3"),
            *("DATASETS.SHAPES.IMAGE_SIZE", "64"),
        ],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "on shapes_val: 3 images" in done.stdout
    written = json.loads((tmp_path / "out" / "proposal_recall.json").read_text())
    assert written["box_proposals"]["AR@20"] == written["box_proposals"]["AR@1"]
