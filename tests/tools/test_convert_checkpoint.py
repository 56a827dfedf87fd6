"""The converter, run as its users run it: files in, files out, and what it says."""

import pickle
import subprocess
import sys

import pytest
import torch
import torchvision
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_resnet_backbone
from safetensors.torch import load_file
from torch import nn

from instseg_d2.checkpoint import InstSegCheckpointer
from instseg_d2.weights.file import read_weights_file
from instseg_d2.weights.formats import is_classifier, to_native_names
from tests.tools.conversion import (
    SUFFIXES,
    assert_same,
    golden,
    model_in,
    names_and_shapes,
    refusal,
    save,
    small,
)
from tools.convert_checkpoint import main

IMAGENET = {  # what the converter is to say
    "resnet18": ("torchvision ResNet", "ResNet-18"),
    "resnet50": ("torchvision ResNet", "ResNet-50"),
    "resnet101d": ("timm ResNet-D", "ResNet-101-vd"),
    "darknet53": ("timm Darknet", "Darknet53"),
    "cspdarknet53": ("timm CSPDarknet", "CSPDarknet53"),
    "pvt_v2_b1": ("timm PVTv2", "PVTv2-B1"),
    "pvt_v2_b2_li": ("timm PVTv2", "PVTv2-B2-li"),
}


# ------------------------------------------------------------------------------- there and back


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("model", IMAGENET)
def test_imagenet_files_become_backbones_and_imagenet_files_again(tmp_path, capsys, model, suffix):
    state = small(names_and_shapes(model))
    source = save(tmp_path / "source.pth", state)
    dest, back = str(tmp_path / f"native{suffix}"), str(tmp_path / "back.pth")

    main([source, dest, "--keep-classifier"])
    said = capsys.readouterr().out
    naming, description = IMAGENET[model]
    assert naming in said
    assert f"{description} with a classifier of" in said
    assert_same(model_in(dest), to_native_names(state)[0])

    main([dest, back, "--to-names", "timm"])
    assert_same(torch.load(back, weights_only=True), state)


@pytest.mark.parametrize("first", SUFFIXES)
@pytest.mark.parametrize("second", SUFFIXES)
def test_a_whole_sparseinst_goes_through_any_two_formats(shared, tmp_path, capsys, first, second):
    state = small(golden(shared, "r50vd_dcn_giam"))
    source = save(tmp_path / "source.pth", {"model": state})
    one, two = str(tmp_path / f"one{first}"), str(tmp_path / f"two{second}")
    main([source, one])
    main([one, two])
    assert_same(model_in(two), state)
    assert "matching_heuristics" not in read_weights_file(one) or first == ".pkl"
    assert not read_weights_file(two).get("matching_heuristics")
    said = capsys.readouterr().out
    assert "renamed" not in said
    assert "SparseInst, ResNet-50-vd with deformable convolutions, G-IAM" in said


def test_the_model_is_described_by_its_shapes(shared, tmp_path, capsys):
    shapes = golden(shared, "r50_base")
    state = small(shapes)
    for name, shape in shapes.items():
        if name.startswith("decoder.inst_branch."):
            state[name] = torch.zeros(shape)
    main([save(tmp_path / "a.pth", {"model": state}), str(tmp_path / "b.pth")])
    assert "SparseInst, ResNet-50, base decoder, 80 classes, 100 masks" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["r50_giam", "pvt_b2_li_giam"])
def test_the_backbone_of_a_sparseinst_is_taken_out(shared, tmp_path, capsys, name):
    state = small(golden(shared, name))
    source = save(tmp_path / "source.pth", {"model": state})
    native, library = str(tmp_path / "native.pth"), str(tmp_path / "library.pth")
    main([source, native, "--part", "backbone"])
    main([source, library, "--part", "backbone", "--to-names", "timm"])
    part = {n.removeprefix("backbone."): v for n, v in state.items() if n.startswith("backbone.")}
    assert_same(model_in(native), part)
    assert read_weights_file(native)["matching_heuristics"] is True
    assert_same(to_native_names(torch.load(library, weights_only=True))[0], part)
    assert f"{len(state) - len(part)} tensors outside 'backbone.'" in capsys.readouterr().out


def test_torchvision_reads_what_comes_back(tmp_path, capsys):
    model = torchvision.models.resnet18(weights=None)
    source = save(tmp_path / "source.pth", model.state_dict())
    main([source, str(tmp_path / "native.safetensors")])
    main([str(tmp_path / "native.safetensors"), str(tmp_path / "b.pth"), "--to-names",
          "torchvision"])  # fmt: skip
    assert "strict=False" in capsys.readouterr().out  # the classifier is gone
    other = torchvision.models.resnet18(weights=None)
    report = other.load_state_dict(torch.load(tmp_path / "b.pth", weights_only=True), strict=False)
    assert report.missing_keys == ["fc.weight", "fc.bias"]
    assert report.unexpected_keys == []
    assert torch.equal(other.layer3[1].bn2.weight, model.layer3[1].bn2.weight)


# --------------------------------------------------------------------------------------- loading


class Detector(nn.Module):
    """Keeps the backbone where SparseInst does (depth 1), or where an FPN does."""

    def __init__(self, backbone, within_fpn):
        super().__init__()
        self.backbone = nn.ModuleDict({"bottom_up": backbone}) if within_fpn else backbone


@pytest.fixture(scope="module")
def resnet50():
    torch.manual_seed(0)
    return torchvision.models.resnet50(weights=None)


@pytest.mark.parametrize(
    ("checkpointer", "suffix", "within_fpn"),
    [
        (DetectionCheckpointer, ".pkl", False),
        (DetectionCheckpointer, ".pth", False),
        (DetectionCheckpointer, ".pth", True),
        (InstSegCheckpointer, ".pkl", False),
        (InstSegCheckpointer, ".safetensors", False),
    ],
)
def test_a_torchvision_resnet_loads_without_loss(
    tmp_path, resnet50, checkpointer, suffix, within_fpn
):
    source = save(tmp_path / "source.pth", resnet50.state_dict())
    dest = str(tmp_path / f"R-50{suffix}")
    main([source, dest])
    cfg = get_cfg()
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    backbone = build_resnet_backbone(cfg, ShapeSpec(channels=3)).eval()
    model = Detector(backbone, within_fpn)

    loaded = []
    loader = checkpointer(model)
    load_model = loader._load_model
    loader._load_model = lambda checkpoint: loaded.append(load_model(checkpoint)) or loaded[0]
    loader.load(dest)
    assert loaded[0].missing_keys == []
    assert loaded[0].incorrect_shapes == []
    assert all(name.endswith("num_batches_tracked") for name in loaded[0].unexpected_keys)

    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        theirs = resnet50.eval()
        expected = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(image))))
        for stage in (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4):
            expected = stage(expected)
        torch.testing.assert_close(backbone(image)["res5"], expected, rtol=1e-4, atol=1e-4)


# ------------------------------------------------------------------- what is dropped and changed


def trained():
    state = {f"{part}.weight": torch.rand(2, 3) for part in ("backbone.a", "encoder.b", "c")}
    return {"model": state, "optimizer": {"lr": 0.1}, "iteration": 7}


def test_training_state_is_dropped_and_named(tmp_path, capsys):
    checkpoint = trained()
    main([save(tmp_path / "a.pth", checkpoint), str(tmp_path / "b.pth")])
    assert list(torch.load(tmp_path / "b.pth", weights_only=True)) == ["model"]
    assert "training state: optimizer, iteration" in capsys.readouterr().out


def test_training_state_is_kept_on_demand(tmp_path):
    checkpoint = trained()
    source = save(tmp_path / "a.pth", checkpoint)
    main([source, str(tmp_path / "b.pth"), "--keep-training-state", "--dtype", "float16"])
    written = torch.load(tmp_path / "b.pth", weights_only=True)
    assert written["optimizer"] == {"lr": 0.1}
    assert written["iteration"] == 7
    assert written["model"]["c.weight"].dtype == torch.float16
    for args in ([tmp_path / "c.pkl"], [tmp_path / "c.pth", "--part", "backbone"]):
        assert "--keep-training-state" in refusal(source, *args, "--keep-training-state")
    assert not list(tmp_path.glob("c.*"))


def test_the_wrapper_of_several_gpus_is_removed(tmp_path, capsys):
    state = trained()["model"]
    wrapped = {f"module.{name}": value for name, value in state.items()}
    main([save(tmp_path / "a.pth", wrapped), str(tmp_path / "b.safetensors")])
    assert_same(load_file(tmp_path / "b.safetensors"), state)
    assert "'module.' removed" in capsys.readouterr().out
    half = {**state, "module.d": torch.ones(1)}  # a part that is called so
    main([save(tmp_path / "c.pth", half), str(tmp_path / "d.safetensors")])
    assert_same(load_file(tmp_path / "d.safetensors"), half)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_precision(tmp_path, capsys, dtype, suffix):
    state = {"w": torch.rand(3), "half": torch.rand(3).bfloat16(), "count": torch.tensor(2**40)}
    word = str(dtype).removeprefix("torch.")
    dest = tmp_path / f"b{suffix}"
    main([save(tmp_path / "a.pth", state), str(dest), "--dtype", word])
    is_array = suffix == ".pkl" and dtype == torch.bfloat16
    expected = torch.float32 if is_array else dtype
    written = model_in(dest)
    assert torch.equal(written["w"], state["w"].to(expected))
    assert torch.equal(written["half"], state["half"].to(expected))
    assert written["count"] == 2**40
    assert ("bfloat16: float32 is written" in capsys.readouterr().out) == is_array


def test_numbers_that_do_not_fit_are_refused(tmp_path):
    state = {"ok": torch.ones(1), "large": torch.tensor([70000.0])}
    message = refusal(save(tmp_path / "a.pth", state), tmp_path / "b.pth", "--dtype", "float16")
    assert "large has values up to 7e+04" in message
    assert not list(tmp_path.glob("b*"))


def test_nan_is_reported(tmp_path, capsys):
    state = {"w": torch.tensor([1.0, float("nan")])}
    main([save(tmp_path / "a.pth", state), str(tmp_path / "b.pth"), "--dtype", "float16"])
    assert "warning" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_view_is_written_without_the_rest_and_shared_tensors_twice(tmp_path, suffix):
    large = torch.rand(1000, 1000)
    state = {"column": large[:, 0], "same": large[:, 0], "t": large[:2, :3].T}
    main([save(tmp_path / "a.pth", state), str(tmp_path / f"b{suffix}")])
    assert_same(model_in(tmp_path / f"b{suffix}"), state)
    assert (tmp_path / f"b{suffix}").stat().st_size < 20_000


def test_version_notes_of_a_whole_model_survive_in_pth(tmp_path):
    model = nn.ModuleDict({"backbone": nn.BatchNorm2d(2)})
    main([save(tmp_path / "a.pth", {"model": model.state_dict()}), str(tmp_path / "b.pth")])
    assert model_in(tmp_path / "b.pth")._metadata == model.state_dict()._metadata


def test_unknown_names_are_kept_and_said_to_be_unknown(tmp_path, capsys):
    state = {"p.weight": torch.ones(1), "q.weight": torch.ones(2)}
    main([save(tmp_path / "a.pth", state), str(tmp_path / "b.pkl")])
    assert_same(model_in(tmp_path / "b.pkl"), state)
    said = capsys.readouterr().out
    assert "not recognised" in said
    assert "unknown, of parts p, q" in said


def test_a_pickle_of_arrays_under_torchvisions_names(tmp_path, capsys):
    state = small(names_and_shapes("resnet18"))
    source = tmp_path / "a.pkl"
    source.write_bytes(pickle.dumps({name: value.numpy() for name, value in state.items()}))
    main([str(source), str(tmp_path / "b.pth"), "--keep-classifier"])
    assert "torchvision ResNet" in capsys.readouterr().out
    assert_same(model_in(tmp_path / "b.pth"), to_native_names(state)[0])


def test_as_a_program(repo, tmp_path):
    source = save(tmp_path / "source.pth", small(names_and_shapes("resnet18")))
    command = [sys.executable, str(repo / "tools" / "convert_checkpoint.py"), source, "b.pkl"]
    first, second = (
        subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        for _ in range(2)
    )
    assert first.returncode == 0, first.stderr
    assert "MODEL.WEIGHTS b.pkl" in first.stdout
    assert second.returncode == 1
    assert second.stderr.strip().splitlines()[-1] == (
        "error: b.pkl exists. Give another name, or --overwrite to replace it."
    )
    assert "Traceback" not in second.stderr
    assert not any(is_classifier(name) for name in model_in(tmp_path / "b.pkl"))
