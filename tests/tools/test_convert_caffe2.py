"""The converter on files of Caffe2."""

import pickle

import numpy as np
import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d

from instseg_d2.checkpoint import InstSegCheckpointer
from instseg_d2.weights.file import read_weights_file
from tests.caffe2_blobs import caffe2_blobs
from tests.small_backbones import native_state, small_resnet
from tests.tools.conversion import SUFFIXES, model_in, names_and_shapes
from tools.convert_checkpoint import main


@pytest.fixture
def blobs(tiny_overrides):
    """Those of a ResNet-50 with few channels."""
    return caffe2_blobs(native_state(small_resnet(tiny_overrides)))


@pytest.fixture
def source(tmp_path, blobs):
    content = {"blobs": {**blobs, "conv1_w_momentum": blobs["conv1_w"]}, "cfg": "text"}
    (tmp_path / "caffe2.pkl").write_bytes(pickle.dumps(content, 2))
    return str(tmp_path / "caffe2.pkl")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_caffe2s_imagenet_file_becomes_a_complete_backbone(
    tmp_path, capsys, tiny_overrides, blobs, source, suffix
):
    dest = str(tmp_path / f"native{suffix}")
    main([source, dest])
    assert read_weights_file(dest).get("__author__") != "Caffe2"  # else names would change twice
    said = capsys.readouterr().out
    assert "Caffe2" in said
    assert "ResNet-50 with a classifier of 1000 classes" in said
    assert "the classifier: fc1000.weight, fc1000.bias" in said
    model = small_resnet(tiny_overrides)
    checkpointer = InstSegCheckpointer(model)
    checkpointer.load(dest)
    report = checkpointer.report
    assert set(report.matched) == set(model.state_dict())
    assert (report.missing, report.misshaped) == ([], [])
    assert [name.removeprefix("backbone.") for name in report.unexpected] == ["stem.conv1.bias"]
    conv = model["backbone"].res2[0].conv1
    assert np.array_equal(conv.weight.detach(), blobs["res2_0_branch2a_w"])
    # What Caffe2 does with its two numbers, and nothing more.
    norm = conv.norm
    assert isinstance(norm, FrozenBatchNorm2d)
    assert torch.equal(norm.running_mean, torch.zeros(4))
    assert torch.equal(norm.running_var + norm.eps, torch.ones(4))
    assert np.array_equal(norm.weight, blobs["res2_0_branch2a_bn_s"])


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_caffe2s_imagenet_file_for_a_library(tmp_path, capsys, source, library):
    main([source, str(tmp_path / "a.pth"), "--to-names", library])
    names = set(torch.load(tmp_path / "a.pth", weights_only=True))
    theirs = names_and_shapes("resnet50")  # both have the same names
    assert names == {name for name in theirs if not name.endswith("num_batches_tracked")}
    assert f"stem.conv1.bias, which {library} does not have" in capsys.readouterr().out


def test_what_came_from_caffe2_is_recognised_later(tmp_path, capsys, source):
    main([source, str(tmp_path / "a.pkl"), "--keep-classifier"])
    main([str(tmp_path / "a.pkl"), str(tmp_path / "b.pth")])
    said = capsys.readouterr().out.split("read:")[-1]
    assert "a backbone here or in Detectron2" in said
    assert "ResNet-50 with a classifier of 1000 classes" in said
    assert not any(name.startswith("fc1000.") for name in model_in(tmp_path / "b.pth"))


def test_a_detector_of_caffe2_loses_the_background(tmp_path, capsys):
    blobs = {
        "conv1_w": np.ones((2, 2), np.float32),
        "bbox_pred_w": np.arange(16, dtype=np.float32).reshape(8, 2),
        "cls_score_b": np.array([9, 1, 2], np.float32),
    }
    source = tmp_path / "caffe2.pkl"
    source.write_bytes(pickle.dumps(blobs, 2))
    main([str(source), str(tmp_path / "native.pth")])
    native = model_in(tmp_path / "native.pth")
    assert native["bbox_pred.weight"].tolist() == [[8, 9], [10, 11], [12, 13], [14, 15]]
    assert native["cls_score.bias"].tolist() == [1, 2, 9]
    assert "'background' removed from bbox_pred.weight" in capsys.readouterr().out
