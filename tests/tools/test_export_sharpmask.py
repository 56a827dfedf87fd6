"""DeepMask and SharpMask as two graphs, run as docs/export.md shows."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from detectron2.modeling import build_model

from instseg_d2.errors import ConfigError
from instseg_d2.export import parts
from instseg_d2.export.formats import METADATA_FILE, ExportError
from instseg_d2.export.settings import ExportSettings
from instseg_d2.export.verify import NO_OUTLINES
from sharpmask_d2.export import build_export_parts
from tests.sharpmask_d2.small_networks import small_config
from tests.sharpmask_d2.whole_images import MODELS, make, make_p3
from tools import export

REPO = Path(__file__).resolve().parents[2]
NUM = 25


@pytest.fixture(scope="module")
def recipe():
    """The functions of the program in the documentation."""
    text = (REPO / "docs" / "export.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names = {"__name__": "recipe"}
    exec(compile(code, "docs/export.md", "exec"), names)
    return names


def graphs_of(model, architecture="SharpMask", **settings):
    return build_export_parts(
        small_config(architecture), model, ExportSettings(**settings), "some/config"
    )


@torch.no_grad()
def enliven(model):
    """Keep units of the refinement alive: with few channels and random weights all may be 0."""
    for name, parameter in model.named_parameters():
        if name.startswith("refinement.") and name.endswith("bias"):
            parameter += 0.5


@torch.no_grad()
def draw_outlines(model):
    """Cut masks where half of the pixels are inside.

    Those of random weights are mostly empty or full, and agree whatever an export does.
    """
    enliven(model)
    part = graphs_of(model).parts[1]
    (logits,) = part.reference(*part.example)
    threshold = float(logits.median().sigmoid())
    model.proposals = replace(model.proposals, mask_threshold=threshold)


# ------------------------------------------------------------------ ONNX, as documented


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A SharpMask with random weights, and its files' sessions."""
    torch.manual_seed(0)
    cfg = small_config(
        "SharpMask",
        PROPOSALS__NUM=NUM,
        PROPOSALS__BATCH=4,
        PROPOSALS__MASK_THRESHOLD=0.5,
        PROPOSALS__SCALES=(0.5, 1.0),
    )
    cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 18, 64  # fewer layers to export
    model = build_model(cfg).eval()
    enliven(model)
    # As in a trained model, masks are on either side of the threshold.
    part = graphs_of(model).parts[1]
    with torch.no_grad():
        (logits,) = part.reference(*part.example)
    output = model.refinement.output
    output.bias.data = (output.bias.data - logits.mean()) / logits.std()
    output.weight.data /= logits.std()
    folder = tmp_path_factory.mktemp("exported") / "new"
    parts.export_parts(graphs_of(model, is_bgr=True), "onnx", folder / "small.onnx")
    assert sorted(path.name for path in folder.iterdir()) == [
        "small_masks.onnx",
        "small_windows.onnx",
    ]
    return model, [
        onnxruntime.InferenceSession(folder / f"small_{part}.onnx") for part in ("windows", "masks")
    ]


@pytest.mark.slow
@pytest.mark.parametrize("size", [(70, 100), (131, 58)])
def test_the_recipe_gives_the_proposals_of_the_model(exported, recipe, size):
    model, sessions = exported
    image = np.random.default_rng(0).integers(256, size=(*size, 3), dtype=np.uint8)
    scores, masks = recipe["propose"](image, *sessions)
    bgr = torch.from_numpy(np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1)))
    (answer,) = model.predict_images([{"image": bgr}])
    expected = answer["proposals"]
    filled = masks.any(axis=(1, 2))
    assert len(scores) == NUM
    assert len(expected) == filled.sum()
    assert filled.sum() > NUM // 2
    wanted = expected.objectness_logits.numpy()
    np.testing.assert_allclose(scores[filled], wanted, rtol=1e-4, atol=1e-5)
    decoded = expected.pred_masks.decode().numpy()
    assert decoded.any()
    assert not decoded.all()
    assert (masks[filled] != decoded).mean() < 1e-3


@pytest.mark.slow
def test_metadata(exported, recipe):
    _, sessions = exported
    for session in sessions:
        facts = recipe["facts_of"](session)
        assert facts["config"] == "some/config"
        assert (facts["window_size"], facts["stride"]) == (64, 16)
        assert facts["skip_strides"] == [16, 8, 4, 2]
        assert facts["scales"] == [0.5, 1.0]
        assert (facts["num"], facts["mask_threshold"]) == (NUM, 0.5)


# ------------------------------------------------------------------ every kind of model


@pytest.mark.slow
@pytest.mark.parametrize("name", ["coarse", "original head", "multiscale", "coarse output", "p3"])
def test_every_kind_of_model_as_torchscript(name, tmp_path, capsys):
    torch.manual_seed(0)
    model = make_p3() if name == "p3" else make(name)
    draw_outlines(model)
    architecture = MODELS.get(name, {"architecture": "SharpMask"})["architecture"]
    parts.export_parts(graphs_of(model, architecture), "torchscript", tmp_path / "small.pt")
    said = capsys.readouterr().out
    assert " NO" not in said
    assert NO_OUTLINES not in said
    assert str(tmp_path / "small_masks.pt") in said
    extra = {METADATA_FILE: ""}
    torch.jit.load(tmp_path / "small_masks.pt", _extra_files=extra)
    facts = json.loads(extra[METADATA_FILE])
    assert json.loads(facts["architecture"]) == architecture


def test_masks_that_are_all_empty_or_full_are_noted(tmp_path, capsys):
    model = make(PROPOSALS__MASK_THRESHOLD=0.999)
    parts.export_parts(graphs_of(model), "torchscript", tmp_path / "small.pt")
    assert NO_OUTLINES in capsys.readouterr().out


# ------------------------------------------------------------------ refusals


def test_nothing_is_written_if_one_graph_answers_otherwise(tmp_path, monkeypatch, capsys):
    def read(part, content):
        run = parts.read_torchscript(part, content)
        if part.name == "windows":
            return run
        return lambda *arrays: [masks + 0.1 for masks in run(*arrays)]

    monkeypatch.setitem(parts.PART_FORMATS, "torchscript", (parts.write_torchscript, read))
    with pytest.raises(ExportError, match=r"small_windows\.pt and .*small_masks\.pt were not"):
        parts.export_parts(graphs_of(make()), "torchscript", tmp_path / "small.pt")
    assert " NO" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_outputs_of_another_shape_or_without_values_do_not_hold():
    assert parts.relative_difference(np.zeros((2, 3)), np.zeros((3, 2))) == np.inf
    assert parts.relative_difference(np.zeros(3), np.full(3, 0.1)) == pytest.approx(0.1)
    nothing = parts.relative_difference(np.ones(3), np.full(3, np.nan))
    assert not parts.PartComparison("masks", "masks", (3,), nothing, None).holds()


def test_what_these_graphs_cannot_do_is_refused():
    model = make()
    with pytest.raises(ConfigError, match="float16 is not written for DeepMask and SharpMask"):
        graphs_of(model, precision="float16")
    with pytest.raises(ConfigError, match="--score-threshold is not for"):
        graphs_of(model, score_threshold=0.3)
    with pytest.raises(ConfigError, match="--top-k is not for"):
        graphs_of(model, top_k=50)
    with pytest.raises(ConfigError, match="torch_export is not written for models of several"):
        parts.check_part_format("torch_export")


def test_the_program_writes_both_files(tmp_path, capsys):
    cfg = small_config("SharpMask")
    config = tmp_path / "small.yaml"
    config.write_text(cfg.dump())
    torch.manual_seed(0)
    weights = tmp_path / "weights.pth"
    torch.save({"model": make().state_dict()}, weights)
    named = ["--config-file", str(config), "--format", "torchscript"]
    out = tmp_path / "out"
    named += ["--output", str(out / "sm.pt"), "MODEL.WEIGHTS", str(weights)]
    export.main(named)
    assert sorted(path.name for path in out.iterdir()) == ["sm_masks.pt", "sm_windows.pt"]
    assert "sm_windows.pt: " in capsys.readouterr().out
