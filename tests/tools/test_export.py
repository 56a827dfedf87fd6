"""The programs as a user runs them, on a small network with random weights."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from instseg_d2.config import load_config
from instseg_d2.data.shapes import CLASS_NAMES
from instseg_d2.export import formats, run
from instseg_d2.export.verify import pictures
from instseg_d2.modeling import build_model
from tests.small_sparseinst import spread_answers
from tools.export import main

REPO = Path(__file__).resolve().parents[2]
CONFIG = "sparseinst/sparse_inst_r50_giam"
# Exporting takes as long as there are layers.
SHALLOW = ["MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.RES2_OUT_CHANNELS", "64"]
#: All that tools/infer_onnx.py may import beside the standard library.
NEEDED = (onnxruntime, np, cv2)


@pytest.fixture(scope="module")
def small(tiny_overrides, tmp_path_factory):
    """Options for a network with random weights."""
    overrides = [*tiny_overrides, *SHALLOW]
    torch.manual_seed(0)
    model = build_model(load_config(CONFIG, overrides)).eval()
    spread_answers(model)
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


@pytest.fixture
def infer_onnx(tmp_path):
    """Runs the program in ``tmp_path``, where nothing but what it needs can be imported."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for module in NEEDED:
        (packages / module.__name__).symlink_to(Path(module.__file__).parent)

    def run_it(*args):
        return subprocess.run(
            [sys.executable, "-S", str(REPO / "tools" / "infer_onnx.py"), *map(str, args)],
            env={"PYTHONPATH": str(packages)}, cwd=tmp_path, capture_output=True, text=True,
            check=False,
        )  # fmt: skip

    return run_it


@pytest.mark.slow
def test_onnx_and_the_program_that_runs_it(small, tmp_path, infer_onnx):
    named = ["--config-file", CONFIG, "--format", "onnx", "--output", "new/model.onnx"]
    command = [sys.executable, str(REPO / "tools" / "export.py"), *named, "--top-k", "7", *small]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" yes") == len(run.CHECKS)
    assert "NO" not in done.stdout
    assert "Note" not in done.stdout  # instances were found, and their masks have outlines
    assert "new/model.onnx: " in done.stdout

    cv2.imwrite(str(tmp_path / "a.jpg"), pictures(1, 90, 120)[0])
    cv2.imwrite(str(tmp_path / "b.jpg"), pictures(1, 91, 120)[0])
    (tmp_path / "bad.jpg").write_text("no image")
    done = infer_onnx("new/model.onnx", "a.jpg", "bad.jpg", "b.jpg", "--score-threshold", "0")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: cannot be read as images: bad.jpg"
    first, second = map(json.loads, done.stdout.splitlines())
    assert (first["file"], second["file"]) == ("a.jpg", "b.jpg")
    assert len(first["instances"]) == 7
    for score, label, (left, top, right, bottom) in second["instances"]:
        assert 0 < score < 1
        assert label in CLASS_NAMES
        assert 0 <= left < right <= 121
        assert 0 <= top < bottom <= 92
    drawn = cv2.imread(str(tmp_path / "drawn" / "0000_a.png"))
    assert drawn.shape == (90, 120, 3)
    assert (drawn != cv2.imread(str(tmp_path / "a.jpg"))).any()
    assert (tmp_path / "drawn" / "0002_b.png").exists()


def constant_onnx(path, name):
    """A model that gives back what it gets."""
    value = onnx.helper.make_tensor_value_info
    floats = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", [name], ["masks"])],
        "identity",
        [value(name, floats, [1])],
        [value("masks", floats, [1])],
    )
    opset = onnx.helper.make_opsetid("", formats.OPSET)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10), path)


def test_other_files_given_as_the_model(tmp_path, infer_onnx):
    (tmp_path / "a.jpg").write_text("no ONNX")
    constant_onnx(tmp_path / "windows.onnx", "level")
    for name, said in {
        "a.jpg": "a.jpg failed",
        "absent.onnx": "absent.onnx failed",
        "windows.onnx": "windows.onnx is no SparseInst that tools/export.py wrote",
    }.items():
        done = infer_onnx(name, "a.jpg")
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: ")
        assert said in line


@pytest.mark.slow
def test_float16_and_the_score_threshold(small, tmp_path, capsys):
    path = tmp_path / "half.onnx"
    threshold = 0.25  # some of the scores of the picture below are above it
    export("onnx", path, small, "--precision", "float16", "--score-threshold", str(threshold))
    said = capsys.readouterr().out
    assert said.count(" yes") == len(run.CHECKS)
    assert "Note" not in said
    weights = onnx.load(path).graph.initializer
    kinds = {tensor.data_type for tensor in weights if len(tensor.dims) == 4 and tensor.dims[0] > 1}
    assert kinds == {onnx.TensorProto.FLOAT16}
    session = onnxruntime.InferenceSession(path)
    _, (scores,), _, _, (count,) = session.run(None, {"images": pictures(1, 64, 80)})
    assert scores.dtype == np.float32
    assert 0 < count < len(scores)
    assert (scores[:count] > threshold).all()
    assert not scores[count:].any()
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["precision"]) == "float16"
    assert json.loads(facts["score_threshold"]) == threshold


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
