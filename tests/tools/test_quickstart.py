"""The demo, made tiny: it writes what its last lines say."""

import re
import subprocess
import sys
from pathlib import Path

import cv2


def test_demo_writes_what_it_says(repo: Path, tmp_path: Path, tiny_overrides: list[str]) -> None:
    done = subprocess.run(
        [
            sys.executable, str(repo / "tools" / "quickstart.py"), "--pictures", "2",
            *tiny_overrides, "OUTPUT_DIR", "out",
        ],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^masks +-?[\d.na]+", done.stdout, re.MULTILINE)
    paths = [line.rsplit(" ", 1)[-1] for line in done.stdout.strip().splitlines()[-3:]]
    assert [Path(path).name for path in paths] == ["predictions.png", "training_curves.png", "out"]
    for path in paths[:2]:
        picture = cv2.imread(str(tmp_path / path))
        assert picture is not None
        assert picture.std() > 0
    assert "training" in done.stderr  # the bar
    assert "Error" not in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "out" / "model_final.pth").is_file()


def test_demo_explains_a_slip(repo: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(repo / "tools" / "quickstart.py"), "SOLVER.MAX_ITERATIONS", "3"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "SOLVER.MAX_ITER?" in done.stderr
