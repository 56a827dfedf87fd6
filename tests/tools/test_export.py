"""The programs as a user runs them, on a small network with random weights."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import torch

from instseg_d2.config import load_config
from instseg_d2.export import formats, run
from instseg_d2.export.settings import TOLERANCES, ExportSettings
from instseg_d2.export.verify import pictures
from instseg_d2.modeling import build_model
from tools.export import main

REPO = Path(__file__).resolve().parents[2]
CONFIG = "sparseinst/sparse_inst_r50_giam"
# Exporting takes as long as there are layers.
SHALLOW = ["MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.RES2_OUT_CHANNELS", "64"]
#: Runs a program where nothing but onnxruntime, numpy and opencv can be imported.
ALONE = """
import runpy, sys
for name in ("torch", "torchvision", "detectron2", "instseg_d2", "sparseinst_d2", "PIL", "timm"):
    sys.modules[name] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def small(tiny_overrides, tmp_path_factory):
    """Options for a network with random weights."""
    overrides = [*tiny_overrides, *SHALLOW]
    torch.manual_seed(0)
    model = build_model(load_config(CONFIG, overrides))
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    torch.save({"model": model.state_dict()}, path)
    return [*overrides, "MODEL.WEIGHTS", str(path)]


def export(form, output, overrides, *options, config=CONFIG):
    named = ["--config-file", config, "--format", form, "--output", str(output)]
    main([*named, *options, *overrides])


def error_of(*args, **named):
    with pytest.raises(SystemExit) as error:
        export(*args, **named)
    assert str(error.value.code).startswith("error: ")
    return str(error.value.code)


@pytest.mark.slow
def test_onnx_and_the_program_that_runs_it(small, tmp_path, capsys):
    path = tmp_path / "new" / "model.onnx"
    export("onnx", path, small, "--top-k", "7")
    said = capsys.readouterr().out
    assert said.count(" yes") == len(run.CHECKS)
    assert "NO" not in said
    for index in range(2):
        cv2.imwrite(str(tmp_path / f"{index}.jpg"), pictures(1, 90 + index, 120)[0])
    images = [str(tmp_path / f"{index}.jpg") for index in range(2)]
    program = str(REPO / "tools" / "infer_onnx.py")
    options = ["--output", str(tmp_path / "drawn"), "--json", str(tmp_path / "found.json")]
    command = [sys.executable, "-c", ALONE, program, str(path), *images, *options]
    subprocess.run([*command, "--score-threshold", "0"], check=True, cwd=tmp_path)
    found = json.loads((tmp_path / "found.json").read_text())
    assert list(found) == images
    assert len(found[images[0]]) == 7
    for instance in found[images[1]]:
        left, top, right, bottom = instance["box"]
        assert 0 <= left < right <= 121
        assert 0 <= top < bottom <= 92
        assert 0 < instance["score"] < 1
    assert cv2.imread(str(tmp_path / "drawn" / "0000_0.png")).shape == (90, 120, 3)


def check_outputs(module):
    boxes, scores, labels, masks, counts = module(torch.from_numpy(pictures(3, 45, 70)))
    assert boxes.shape == (3, 10, 4)
    assert scores.shape == labels.shape == (3, 10)
    assert masks.shape == (3, 10, 45, 70)
    assert counts.tolist() == (scores > 0).sum(1).tolist()


def test_torchscript(small, tmp_path, capsys):
    export("torchscript", tmp_path / "model.pt", small)
    assert capsys.readouterr().out.count(" yes") == len(run.CHECKS)
    extra = {formats.METADATA_FILE: ""}
    module = torch.jit.load(tmp_path / "model.pt", _extra_files=extra)
    assert len(json.loads(json.loads(extra[formats.METADATA_FILE])["class_names"])) == 6
    check_outputs(module)


@pytest.mark.slow
def test_torch_export(small, tmp_path, capsys):
    export("torch_export", tmp_path / "model.pt2", small)
    assert capsys.readouterr().out.count(" yes") == len(run.CHECKS)
    extra = {formats.METADATA_FILE: ""}
    module = torch.export.load(tmp_path / "model.pt2", extra_files=extra).module()
    assert json.loads(json.loads(extra[formats.METADATA_FILE])["top_k"]) == 10
    check_outputs(module)
    for batch in ((1, 33, 33), (1, 64, 64), (4, 33, 96)):  # one image, square, padded already
        assert module(torch.from_numpy(pictures(*batch)))[3].shape == (batch[0], 10, *batch[1:])


@pytest.mark.parametrize(
    "name",
    ["r50_base", "r50_giam_soft", "r50vd_dcn_giam_aug", "pvt_b2_li_giam", "cspdarknet53_giam"],
)
@pytest.mark.slow
def test_other_networks(tiny_overrides, name):
    # Random masks are often below the usual threshold everywhere, and then there is no instance.
    options = [*tiny_overrides, "MODEL.SPARSE_INST.MASK_THRESHOLD", "0.1"]
    cfg = load_config(f"sparseinst/sparse_inst_{name}", options)
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    form = formats.FORMATS["torchscript"]
    _, results = run.export_model(cfg, model, ExportSettings(), form, name)
    assert all(result.holds(TOLERANCES["float32"]) for result in results)
    assert all(result.instances for result in results)


def test_a_graph_that_answers_otherwise_is_not_written(small, tmp_path, monkeypatch, capsys):
    original = formats.FORMATS["torchscript"]

    def read(content):
        runner = original.read(content)

        def shifted(images):
            boxes, scores, *others = runner(images)
            return [boxes, scores + 0.01, *others]

        return shifted

    wrong = formats.Format(original.ending, original.write, read)
    monkeypatch.setitem(formats.FORMATS, "torchscript", wrong)
    message = error_of("torchscript", tmp_path / "model.pt", small)
    assert "does not answer as the model does" in message
    assert " NO" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_absent_libraries_are_named_first(small, tmp_path, monkeypatch):
    monkeypatch.setitem(formats.LIBRARIES, "onnx", ("onnx", "surely_not_installed"))
    message = error_of("onnx", tmp_path / "model.onnx", small)
    assert "--format onnx needs surely_not_installed" in message
    assert "pip install '.[export]'" in message


def test_mistakes(small, tmp_path):
    assert "end in .onnx" in error_of("onnx", tmp_path / "model.pt", small)
    untrained = [*small, "MODEL.WEIGHTS", ""]
    assert "MODEL.WEIGHTS is empty" in error_of("onnx", tmp_path / "model.onnx", untrained)
    message = error_of("onnx", tmp_path / "model.onnx", small, config="quickstart/fast_rcnn_shapes")
    assert "cannot be exported" in message
    assert not list(tmp_path.iterdir())
