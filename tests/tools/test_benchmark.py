"""Every mode of the benchmark on small models: what it says, and that the sides do the same."""

import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from instseg_d2.benchmark import evaluation as coco
from instseg_d2.benchmark import machine as machine_module
from instseg_d2.benchmark import plain
from instseg_d2.benchmark.differences import greatest
from instseg_d2.benchmark.memory import peak_memory
from instseg_d2.benchmark.models import build_models, make_inputs
from instseg_d2.benchmark.proposals import CHOSEN
from instseg_d2.benchmark.run import MODES, run
from instseg_d2.benchmark.settings import Settings
from instseg_d2.benchmark.tables import report
from instseg_d2.benchmark.timing import Comparison, Side, measure, ratio
from instseg_d2.config import load_config
from tools import benchmark

NAME = "sparseinst/sparse_inst_r50_giam"
CPU = torch.device("cpu")
STAGES = ["whole", "network", "backbone", "encoder", "decoder", "postprocess"]
SCALES = ["MODEL.SHARP_MASK.PROPOSALS.SCALES", "(0.5, 1.0)", "MODEL.SHARP_MASK.PROPOSALS.NUM", "9"]


@pytest.fixture(autouse=True)
def _small_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_module, "MATRIX_SIDE", {"cpu": 32})
    monkeypatch.setattr(machine_module, "CONV_SHAPE", (8, 6, 7))


def settings(overrides: list[str], config: str = NAME, **options: Any) -> Settings:
    return Settings(config, overrides, **{"size": (70, 100), "rounds": 2, "kept": 4, **options})


def require_sound(part: dict[str, Any]) -> None:
    """Numbers that hang together."""
    for side in part["sides"].values():
        low, _, _, high = side["ms_quantiles"]
        assert 0 < low <= side["ms"] <= high
        if "share_of_matmul" in side:
            assert side["share_of_matmul"] > 0
    for name, value in part["ratios"].items():
        assert name in part["sides"]
        assert 0 < value["low"] <= value["median"] <= value["high"]


# ------------------------------------------------------------------------------------- predictions


def test_results_of_another_size(tiny_overrides: list[str]) -> None:
    cfg = load_config(NAME, tiny_overrides)
    (inputs,) = make_inputs(cfg, settings(tiny_overrides, output_size=(300, 400)))
    assert (inputs["height"], inputs["width"]) == (300, 400)
    result = run(
        "prediction", settings(tiny_overrides, output_size=(300, 400), against="plain", rounds=1)
    )
    assert "results 300 x 400, batch 1" in report(result)
    assert result["parts"]["postprocess"]["differences"]["plain"] < 1e-3


def test_predictions_are_those_of_the_plain_way(tiny_overrides: list[str]) -> None:
    result = run("prediction", settings(tiny_overrides, against="plain"))
    parts = result["parts"]
    assert list(parts) == [*STAGES, "load", "preprocess", "draw"]
    for name, part in parts.items():
        require_sound(part)
        assert list(part["sides"]) == (["product", "plain"] if name in STAGES else ["product"])
    for name in ("network", "encoder"):
        assert parts[name]["differences"]["plain"] < 1e-4
    for name in ("whole", "postprocess"):
        assert parts[name]["differences"]["plain"] < 1e-3
        for side in parts[name]["sides"].values():
            assert side["peak_mb"] > 0
            assert side["per_second"] == pytest.approx(1000 / side["ms"])
    for side in ("product", "plain"):
        counts = [parts[name]["sides"][side]["gmacs"] for name in STAGES[1:5]]
        assert counts[0] == pytest.approx(sum(counts[1:]))
    json.dumps(result)


@pytest.mark.parametrize("kept", [1, 4, 10])
def test_so_many_instances_are_kept(tiny_overrides: list[str], kept: int) -> None:
    wanted = settings(tiny_overrides, kept=kept, batch=2)
    cfg = wanted.cfg()
    inputs = make_inputs(cfg, wanted)
    models = build_models(cfg, wanted, inputs)
    for model in (models.model, models.prepared):
        with torch.no_grad():
            assert [len(answer["instances"]) for answer in model(inputs)] == [kept, kept]


def test_another_config_and_half_precision(tiny_overrides: list[str]) -> None:
    other = "sparseinst/sparse_inst_r50_base"
    result = run("prediction", settings(tiny_overrides, against=other, precision="bfloat16"))
    assert list(result["parts"]["whole"]["sides"]) == ["product", other]
    assert not result["parts"]["whole"]["differences"]
    for part in result["parts"].values():
        require_sound(part)


def test_a_model_without_stages_is_measured_whole(tiny_overrides: list[str]) -> None:
    config = "sharpmask/deepmask_r50"
    result = run("prediction", settings([*tiny_overrides, *SCALES], config))
    assert list(result["parts"]) == ["whole"]
    require_sound(result["parts"]["whole"])


# -------------------------------------------------------------------------------------- other modes


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_steps_are_those_of_the_plain_way(
    tiny_overrides: list[str], precision: str
) -> None:
    wanted = settings(tiny_overrides, against="plain", batch=2, objects=3, precision=precision)
    part = run("train", wanted)["parts"]["training step"]
    require_sound(part)
    assert part["differences"]["plain"] < (1e-5 if precision == "float32" else 0.05)
    assert all(side["peak_mb"] > 0 for side in part["sides"].values())


def test_the_operators_that_take_most_are_named(tiny_overrides: list[str]) -> None:
    given = settings(tiny_overrides, against="plain", batch=2, objects=3, rounds=1, operators=True)
    result = run("train", given)
    operators = result["parts"]["training step"]["operators"]
    for rows in operators.values():
        assert rows[-1]["name"] == "all others"
        times = [row["ms"] for row in rows[:-1]]
        assert times == sorted(times, reverse=True)
        assert min(times) > 0
        assert math.isclose(sum(row["share"] for row in rows), 1)
        assert "aten::convolution_backward" in [row["name"] for row in rows]
    assert "training step: plain" in report(result)


def test_the_mappers_give_the_same_images(tiny_overrides: list[str]) -> None:
    part = run("data", settings(tiny_overrides, images=4))["parts"]["mapper"]
    require_sound(part)
    assert list(part["sides"]) == ["product", "detectron2"]
    assert part["differences"]["detectron2"] < 0.01
    assert "peak_mb" not in part["sides"]["product"]


def test_evaluations_give_the_same_figures(
    tiny_overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coco, "DETECTIONS", 9)
    part = run("evaluation", settings(tiny_overrides, images=3))["parts"]["COCO evaluation"]
    require_sound(part)
    assert list(part["sides"]) == ["product", "detectron2", "pycocotools"]
    assert part["differences"]["detectron2"] < 1e-9
    truth, found = coco.synthetic(3)
    assert [len(results) for _, results in found] == [9] * 3
    assert {result["image_id"] for _, results in found for result in results} == {1, 2, 3}
    assert len(truth["annotations"]) >= 3


@pytest.mark.parametrize("config", ["deepmask_r50", "sharpmask_r50"])
def test_proposals_are_those_of_the_plain_way(tiny_overrides: list[str], config: str) -> None:
    wanted = settings([*tiny_overrides, *SCALES], f"sharpmask/{config}", against="plain")
    part = run("proposals", wanted)["parts"]["proposals"]
    require_sound(part)
    assert list(part["sides"]) == ["product", "plain", CHOSEN]
    assert all(difference < 5e-3 for difference in part["differences"].values())


# ---------------------------------------------------------------------------------------- measuring


def test_setup_is_not_timed_and_every_side_has_its_turns() -> None:
    calls: list[str] = []

    def side(name: str) -> Side:
        return Side(lambda given: calls.append(given), lambda: name)

    comparison = Comparison("x", {"a": side("a"), "b": side("b")}, memory=False)
    measure(comparison, rounds=4, device=CPU, matmul_rate=1.0)
    assert calls[:4] == ["a", "b", "a", "b"]  # results and warm-up
    assert calls[4:] == ["a", "b", "b", "a", "a", "b", "b", "a"]


def test_a_ratio_is_that_of_each_round() -> None:
    values = ratio([2.0, 6.0, 20.0], [1.0, 2.0, 5.0])
    assert values["median"] == 3
    assert 2 <= values["low"] < 3 < values["high"] <= 4


def test_the_peak_is_of_what_is_held_at_one_time() -> None:
    mb = 2**18

    def run_once() -> None:
        first = torch.ones(3 * mb)
        del first
        both = [torch.ones(2 * mb), torch.ones(2 * mb)]
        del both

    assert peak_memory(run_once, CPU) == pytest.approx(4 * 2**20, rel=0.01)


# -------------------------------------------------------------------------------------- the command


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *arguments])
    benchmark.main()


def test_the_command_prints_and_writes(
    tmp_path: Path,
    tiny_overrides: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "sub" / "times.json"
    command(
        monkeypatch, "--config-file", NAME, "--size", "64", "96", "--rounds", "1", "--kept", "3",
        "--against", "plain", "--json", str(file), *tiny_overrides,
    )  # fmt: skip
    said = capsys.readouterr().out
    assert "image 64 x 96 (height x width), batch 1, float32, 1 rounds" in said
    for stage in STAGES:
        assert re.search(rf"^ *{stage} +\| product +\| +[\d.]+ \(", said, re.MULTILINE), said
    assert re.search(r"^ +\| plain .*\d\.\d\d \(\d\.\d\d-\d+\.\d\d\)", said, re.MULTILINE)
    written = json.loads(file.read_text())
    assert written["command"].startswith("python tools/benchmark.py --config-file")
    assert written["kept"] == 3
    assert set(written["machine"]["versions"]) >= {"torch", "detectron2", "python"}
    assert written["rates"]["matmul"] > 0


@pytest.mark.parametrize(
    ("options", "overrides", "said"),
    [
        (["--against", "plain"], ["MODEL.META_ARCHITECTURE", "DeepMask"], "plain.*SparseInst, but"),
        (["--proposals"], [], "DeepMask and SharpMask, but MODEL.META_ARCHITECTURE is SparseInst"),
        (["--kept", "11"], [], "--kept is 11, but the model predicts 10"),
        (["--against", "sparseinst/absent"], [], "absent"),
        (["--device", "cuda"], [], "no CUDA device"),
        ([], ["MODEL.WEIGHTS", "absent.pth"], r"absent\.pth"),
    ],
)
def test_mistakes_end_in_one_line(
    options: list[str],
    overrides: list[str],
    said: str,
    tiny_overrides: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if "cuda" in options and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    small = ["--config-file", NAME, "--size", "64", "64", "--rounds", "1"]
    with pytest.raises(SystemExit, match=f"error: .*{said}"):
        command(monkeypatch, *small, *options, *tiny_overrides, *overrides)


def test_without_a_checkout_it_says_so(
    tmp_path: Path, tiny_overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plain, "FOLDER", tmp_path)
    for name in [name for name in sys.modules if name.startswith("tests.plain.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(SystemExit, match="comes with a checkout"):
        command(
            monkeypatch, "--config-file", NAME, "--size", "64", "64", "--against", "plain",
            "--kept", "3", *tiny_overrides,
        )  # fmt: skip


def test_every_mode_has_its_option() -> None:
    parse = benchmark.make_parser().parse_args
    assert parse(["--config-file", "x"]).mode == "prediction"
    for mode in MODES.keys() - {"prediction"}:
        assert parse(["--config-file", "x", f"--{mode}"]).mode == mode


def test_differences_of_figures() -> None:
    assert greatest({"a": {"b": math.nan, "c": 1.0}}, {"a": {"b": math.nan, "c": 1.5}}) == 0.5
    assert greatest({"a": 1.0}, {"b": 1.0}) is None
