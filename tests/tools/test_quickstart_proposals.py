"""The whole chain from DeepMask to Fast R-CNN, made tiny."""

import re
import sys
from pathlib import Path

import pytest

from tools import quickstart_proposals

#: Of Fast R-CNN and RPN, beside what makes any model small.
SMALL = ["MODEL.FPN.OUT_CHANNELS", "8", "MODEL.ROI_BOX_HEAD.FC_DIM", "16"]
SMALL += ["TEST.PRECISE_BN.NUM_ITER", "2", "SOLVER.MAX_ITER", "2"]


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["tool", *arguments])
    quickstart_proposals.main()


@pytest.mark.slow
def test_the_chain(
    tmp_path: Path,
    tiny_overrides: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    call(monkeypatch, "--output", "out", "--num", "12", *tiny_overrides, *SMALL)
    said = capfd.readouterr().out
    assert "AR@10" in said
    assert "AR@12" in said
    for name in ("SharpMask", "RPN", "random boxes"):
        assert re.search(rf"^{name}( +([\d.]+|-)){{8}}$", said, re.MULTILINE), said
    for folder in ("sharpmask_proposals", "rpn_proposals", "random_proposals"):
        for name in ("shapes_train", "shapes_val"):
            assert Path("out", folder, f"{name}_boxes.pkl").is_file()
    for stage in ("deepmask", "sharpmask", "rpn", "sharpmask_detector", "random_detector"):
        assert Path("out", stage, "model_final.pth").is_file()


def test_slips_end_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        call(monkeypatch, "--num", "0")
    assert "error: argument --num: '0' is not a whole number above 0" in capsys.readouterr().err
    with pytest.raises(SystemExit, match=r"error: .*SOLVER\.MAXITER.*did you mean"):
        call(monkeypatch, "SOLVER.MAXITER", "3")
    assert not list(tmp_path.iterdir())
