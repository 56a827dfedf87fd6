"""The benchmark's images are the same for both evaluations, and so are the recalls."""

import re

import pytest

from tools.benchmark_recall import main


@pytest.mark.parametrize("masks", [True, False])
def test_times_and_agreement_are_printed(
    masks: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--images", "4", "--proposals", "60", "--compare", "3"]
    monkeypatch.setattr(
        "sys.argv", ["benchmark_recall.py", *options] + ["--no-masks"] * (not masks)
    )
    main()
    printed = capsys.readouterr().out
    assert re.search(r"^4 images x 60 proposals, boxes.*: [\d.]+ s of one core, .* MB", printed)
    assert ("mask_proposals: AR@10" in printed) == masks
    recall = re.search(r"^box_proposals: AR@10 ([\d.]+), AR@100 ([\d.]+)", printed, re.MULTILINE)
    assert recall
    assert 0 < float(recall[1]) < float(recall[2]) <= 100
    difference = re.search(r"^3 images: .* greatest difference of a recall (.+)$", printed, re.M)
    assert difference
    assert float(difference[1]) < 1e-12
