"""The program that says where the time of proposals goes, on small networks."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from sharpmask_d2.deepmask import DeepMask
from tests.sharpmask_d2.small_networks import SLIM
from tools import time_proposals
from tools.time_proposals import CONFIGS, build_models, masks_everywhere, measure, random_pixels

OVERRIDES = [
    str(part)
    for pair in {
        **SLIM,
        "MODEL.SHARP_MASK.WINDOW_SIZE": 64,
        "MODEL.SHARP_MASK.PROPOSALS.SCALES": (0.5, 1.0),
    }.items()
    for part in pair
]
WINDOWS = 3 * 4 + 5 * 7  # of an image of 70 x 100
STAGES = {"pyramid", "trunk", "score", "selection", "skips", "masks", "pasting", "encoding"}


@pytest.fixture(scope="module")
def models() -> dict[str, DeepMask]:
    return build_models(9, OVERRIDES)


@pytest.fixture(scope="module")
def result(models: dict[str, DeepMask]) -> dict[str, Any]:
    return measure(models, {"image": random_pixels(70, 100)}, rounds=2)


def test_the_networks_are_those_that_the_table_names(models: dict[str, DeepMask]) -> None:
    designs = [model.head.design for model in models.values()]
    assert designs == ["original", "A", "B", "C", "C"]
    assert [model.proposals.num for model in models.values()] == [9] * 5
    assert [type(model).__name__ for model in models.values()] == ["DeepMask"] * 4 + ["SharpMask"]


def test_every_stage_of_every_network_is_timed(result: dict[str, Any]) -> None:
    assert list(result["networks"]) == list(CONFIGS)
    for network in result["networks"].values():
        ms = network["ms"]
        assert set(ms) == {*STAGES, "total"}
        assert all(value > 0 for value in ms.values())
        assert 0 < network["proposals"] <= 9
    assert result["image"] == [70, 100]
    assert result["windows"] == WINDOWS
    json.dumps(result)


def test_ratios_are_those_of_the_times(result: dict[str, Any]) -> None:
    totals = [result["networks"][name]["ms"]["total"] for name in ("SharpMask", "head C")]
    assert result["sharp_over_coarse"] == pytest.approx(totals[0] / totals[1])
    for name, saving in result["masks_everywhere"].items():
        selected = result["networks"][name]["ms"]["masks"]
        assert saving["selected_ms"] == selected
        assert saving["times_as_much"] == pytest.approx(saving["everywhere_ms"] / selected)


def test_masks_everywhere_leave_the_model_as_it_was(models: dict[str, DeepMask]) -> None:
    model = models["SharpMask"]
    options = model.proposals
    windows, seconds = masks_everywhere(model, {"image": random_pixels(70, 100)})
    assert windows == WINDOWS
    assert seconds > 0
    assert model.proposals is options


def test_the_command_prints_and_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "sub" / "times.json"
    monkeypatch.setattr(
        sys, "argv",
        ["time_proposals.py", "--size", "40", "50", "--num", "5", "--rounds", "1",
         "--json", str(file), *OVERRIDES],
    )  # fmt: skip
    time_proposals.main()
    said = capsys.readouterr().out
    assert "40 x 50 (height x width), 2 scales, the best 5 of" in said
    assert re.search(r"^ *trunk *\| +[\d.]+ \(\d+%\)", said, re.MULTILINE)
    assert re.search(r"SharpMask takes [\d.]+ x as long as DeepMask", said)
    assert json.loads(file.read_text())["num"] == 5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--image", "absent.jpg"], "absent.jpg.*does not exist"),
        (["MODEL.SHARP_MASK.PROPOSALS.PRESET", "zoom3"], r"PRESET is 'zoom3'"),
    ],
)
def test_mistakes_end_in_one_line(
    arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["time_proposals.py", *arguments[:2], *OVERRIDES])
    if "--image" not in arguments:
        monkeypatch.setattr(sys, "argv", ["time_proposals.py", *OVERRIDES, *arguments])
    with pytest.raises(SystemExit, match=f"error: .*{said}"):
        time_proposals.main()
