"""The tool's output and messages, and the model zoo page that it measures."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from instseg_d2.config import load_config
from instseg_d2.errors import ConfigError
from instseg_d2.model_zoo import config_names, get, get_config
from instseg_d2.modeling import build_model
from tools.analyze import (
    FLOPS_COLUMN,
    NETWORKS,
    PARAMS_COLUMN,
    ZooRow,
    inference_size,
    main,
    measure,
    report,
    update_zoo_page,
    zoo_rows,
)

REPO = Path(__file__).resolve().parents[2]
PAGE = REPO / "docs" / "model_zoo.md"
NAME = "sparseinst/sparse_inst_r50_giam"
PARTS = ["backbone", "encoder", "decoder"]


def analyze(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(REPO / "tools" / "analyze.py"), *args],
        cwd=cwd, capture_output=True, text=True, check=False,
    )  # fmt: skip


# -------------------------------------------------------------------------------- one config


def test_table(tmp_path: Path, tiny_overrides: list[str]) -> None:
    done = analyze(
        "--config-file", NAME, "--size", "33", "60", "--batch", "2", *tiny_overrides, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "2 x 33 x 60 (height x width), padded to 64 x 64" in done.stdout
    names = re.findall(r"^ +([\w.]+) +\|", done.stdout, re.MULTILINE)
    assert [name for name in names if "." not in name] == ["part", *PARTS, "total"]
    assert {"decoder.inst_branch", "decoder.mask_branch"} <= set(names)
    assert "multiply-adds, as fvcore counts them" in done.stdout
    assert "NOT counted" not in done.stdout
    assert done.stderr == ""


def test_json(tmp_path: Path, tiny_overrides: list[str]) -> None:
    done = analyze(
        *("--config-file", NAME, "--size", "64", "96", "--depth", "1", "--json", "out/cost.json"),
        *tiny_overrides,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out" / "cost.json").read_text())
    assert result["config"] == NAME
    assert result["input_shape"] == [1, 3, 64, 96]
    analysis = result["analysis"]
    model = get(NAME, overrides=tiny_overrides)
    assert list(analysis["parts"]) == PARTS
    for name, part in analysis["parts"].items():
        module = model.get_submodule(name)
        assert part["params"] == sum(p.numel() for p in module.parameters())
    for key in ("params", "flops", "activations"):
        total = sum(part[key] for part in analysis["parts"].values())
        assert analysis["total"][key] == total
    assert analysis["uncounted"] == {}


def test_cost_grows_with_the_input(tiny_overrides: list[str]) -> None:
    cfg = load_config(NAME, tiny_overrides)
    one = measure(cfg, size=(64, 64)).analysis.total
    two, three = (measure(cfg, size=(64, 64), batch=n).analysis.total for n in (2, 3))
    assert one.params == two.params
    # The maps of coordinates are the same for all images of a batch.
    assert 1.9 * one.flops < two.flops < 2 * one.flops
    assert three.flops - two.flops == two.flops - one.flops


def test_deepmask_and_sharpmask_on_one_patch(tiny_overrides: list[str]) -> None:
    totals = {}
    for name in ("deepmask_r50", "sharpmask_r50"):
        cfg = load_config(f"sharpmask/{name}", tiny_overrides)
        measured = measure(cfg, depth=1)
        assert measured.input_shape == (1, 3, 96, 96)
        assert measured.analysis.total.params == sum(
            parameter.numel() for parameter in build_model(cfg).parameters()
        )
        assert not measured.analysis.uncounted
        totals[name] = measured.analysis
    extra = totals["sharpmask_r50"].parts["refinement"]
    assert totals["deepmask_r50"].parts.keys() == {"backbone", "head"}
    coarse, sharp = (analysis.total.flops for analysis in totals.values())
    assert extra.flops > 0
    assert sharp - coarse == pytest.approx(extra.flops, rel=0.02)
    with pytest.raises(ConfigError, match="not --size"):
        measure(cfg, size=(480, 640))


def test_default_size_is_that_of_inference() -> None:
    assert inference_size(get_config(NAME)) == (640, 853)
    assert inference_size(load_config(NAME, ["INPUT.MIN_SIZE_TEST", "608"])) == (608, 811)
    assert inference_size(load_config(NAME, ["INPUT.MIN_SIZE_TEST", "0"])) == (480, 640)


def test_operators_without_a_rule_are_shown(
    tiny_overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class WithUnknown(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.cumsum(0)

    monkeypatch.setitem(NETWORKS, "SparseInst", lambda model: WithUnknown())
    measured = measure(load_config(NAME, tiny_overrides), size=(32, 32))
    assert re.search(r"NOT counted.* aten::cumsum \(1x\)", report(measured))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--config-file", "sparseinst/sparse_inst_r51_giam"], r"^error: .*sparse_inst_r50_giam"),
        (["--config-file", NAME, "MODEL.WEIGTHS", "x"], r"^error: .*did you mean MODEL\.WEIGHTS"),
        (
            ["--config-file", NAME, "MODEL.META_ARCHITECTURE", "GeneralizedRCNN"],
            r"^error: .*GeneralizedRCNN.* can measure SparseInst",
        ),
        (["--config-file", NAME, "--size", "0", "5"], "'0' is not a whole number above 0"),
        (["--zoo-table", "a.md", "--batch", "2"], "stands alone"),
        (["--zoo-table", "nowhere.md"], r"^error: .*nowhere\.md"),
        ([], "--config-file"),
    ],
)
def test_mistakes(
    args: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["analyze.py", *args])
    with pytest.raises(SystemExit) as stopped:
        main()
    # A text is what Python prints; argparse has printed its own and gives a number.
    said = f"{stopped.value.code}\n{capsys.readouterr().err}"
    assert re.search(message, said, re.MULTILINE), said


# -------------------------------------------------------------------------------- the zoo page


def page_rows() -> list[ZooRow]:
    return list(zoo_rows(PAGE.read_text()))


def test_every_config_is_on_the_page() -> None:
    names = {name for name in config_names() if name.startswith("sparseinst/sparse_inst_")}
    assert {row.config for row in page_rows()} == names


@pytest.mark.parametrize("row", page_rows(), ids=lambda row: f"{row.config}-{row.cells['input']}")
def test_parameters_on_the_page(row: ZooRow) -> None:
    model = get(row.config, device="cpu")
    params = sum(p.numel() for p in model.parameters())
    assert row.cells[PARAMS_COLUMN] == f"{params / 1e6:.2f}"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["r50_base", "r50vd_dcn_giam_aug", "pvt_b1_giam"])
def test_flops_on_the_page(name: str) -> None:
    config = f"sparseinst/sparse_inst_{name}"
    flops = measure(get_config(config)).analysis.total.flops
    on_page = {row.cells[FLOPS_COLUMN] for row in page_rows() if row.config == config}
    assert on_page == {f"{flops / 1e9:.1f}"}


def test_rows_of_one_network_have_one_cost() -> None:
    """Training alone differs between these, and only the input between rows of one config."""
    costs: dict[str, set[tuple[str, str]]] = {}
    for row in page_rows():
        network = re.sub("_(aug|fp16)$", "", row.config)
        costs.setdefault(network, set()).add((row.cells[PARAMS_COLUMN], row.cells[FLOPS_COLUMN]))
    assert len(costs) == 13
    assert all(len(values) == 1 for values in costs.values()), costs


def test_the_page_names_the_imagenet_weights() -> None:
    text = PAGE.read_text()
    for config in {row.config for row in page_rows()}:
        weights = get_config(config).MODEL.WEIGHTS
        if weights.startswith("pretrained_models/"):
            assert f"`{Path(weights).name}`" in text, weights


def test_the_python_example_runs(tmp_path: Path) -> None:
    example = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert example is not None
    weights = tmp_path / "checkpoint.pth"
    torch.save(get(NAME).state_dict(), weights)
    variables: dict = {}
    exec(example[1].replace("path/to/checkpoint.pth", str(weights)), variables)
    assert variables["instances"].image_size == (480, 640)


def test_a_page_is_measured_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = "quickstart/sparseinst_shapes"
    page = tmp_path / "page.md"
    before = (
        "Text | with a bar\n\n"
        f"| config | {PARAMS_COLUMN} | AP | {FLOPS_COLUMN} |\n|---|---|---|---|\n"
        f"| [a](../configs/{config}.yaml) | 0 | 12.3 | ? |\n"
        f"| [b](../configs/{config}.yaml) | 0 | - | ? |\n\n"
        f"| config |\n|---|\n| [c](../configs/{config}.yaml) |\n"
    )
    page.write_text(before)
    update_zoo_page(page)
    total = measure(get_config(config)).analysis.total
    params, flops = f"{total.params / 1e6:.2f}", f"{total.flops / 1e9:.1f}"
    assert page.read_text() == re.sub(r"0 \| (12.3|-) \| \?", rf"{params} | \1 | {flops}", before)
    assert capsys.readouterr().out.count(f"{config} ...") == 1


def test_a_page_without_the_table_is_named(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("| config |\n|---|\n| [a](../configs/sparseinst/x.yaml) |\n")
    with pytest.raises(ConfigError, match=r"page\.md"):
        update_zoo_page(page)
