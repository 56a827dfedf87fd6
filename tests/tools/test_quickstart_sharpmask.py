"""The demo of both stages, made tiny, and the pictures of its weights."""

import re
import sys
from pathlib import Path
from types import ModuleType

import cv2
import pytest

from tools import quickstart_sharpmask, show_patches

SHARPMASK = "quickstart/sharpmask_shapes"


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def call(tool: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["tool", *arguments])
    tool.main()


def test_demo_and_pictures(
    tiny_overrides: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    options = ["--baseline", "--pictures", "2", "--output", "out"]
    overrides = [*tiny_overrides, "SOLVER.MAX_ITER", "2"]
    call(quickstart_sharpmask, monkeypatch, *options, *overrides)
    said = capfd.readouterr().out
    for name in ("DeepMask", "SharpMask", "multiscale baseline"):
        assert re.search(rf"^{name}( +[\d.]+){{5}}$", said, re.MULTILINE), said
    for stage in ("deepmask", "sharpmask", "multiscale"):
        assert Path("out", stage, "model_final.pth").is_file()
        assert Path("out", stage, "training_curves.png").is_file()
    demo = cv2.imread("out/patches.png")
    assert demo.shape[1] == 4 * 248 + 8  # patch, truth, coarse, sharp

    overrides += ["MODEL.WEIGHTS", "out/sharpmask/model_final.pth"]
    options = ["--config-file", SHARPMASK, "--count", "2", "--output", "new/own.png"]
    call(show_patches, monkeypatch, *options, *overrides)
    assert capfd.readouterr().out.strip().endswith("new/own.png")
    assert (cv2.imread("new/own.png") == demo).all()


@pytest.mark.parametrize("names", ["()", "('shapes_val', 'shapes_train')"])
def test_one_test_set_is_needed(names: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for tool, options in ((quickstart_sharpmask, []), (show_patches, ["--config-file", SHARPMASK])):
        with pytest.raises(SystemExit, match=r"error: DATASETS\.TEST must name one data set"):
            call(tool, monkeypatch, *options, "DATASETS.TEST", names)
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["sparseinst/sparse_inst_r50_giam"], "META_ARCHITECTURE is 'SparseInst'"),
        ([SHARPMASK, "MODEL.WEIGHTS", ""], "MODEL.WEIGHTS"),
        ([SHARPMASK, "MODEL.WEIGHTS", "gone.pth"], "gone.pth"),
    ],
)
def test_pictures_need_weights_of_the_family(
    options: list[str], message: str, tiny_overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match=f"error: .*{message}"):
        call(show_patches, monkeypatch, "--config-file", options[0], *tiny_overrides, *options[1:])
