import copy
import logging
import os
import pickle
from urllib.error import URLError

import numpy as np
import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling.backbone.resnet import BasicStem
from torch import nn

from instseg_d2.checkpoint import InstSegCheckpointer
from instseg_d2.errors import WeightsError
from instseg_d2.weights.file_writing import write_weights_file
from instseg_d2.weights.report import LoadReport
from tests.small_model import Model, same, save_pth


def backbone_state(model):
    return {name: value.clone() for name, value in model.backbone.state_dict().items()}


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO, "fvcore.common.checkpoint")
    return caplog


# ----------------------------------------------------------------------------------- loading


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"model": state}])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_whole_model(tmp_path, log, wrap, prefix):
    source, target = Model(), Model()
    state = {prefix + name: value for name, value in source.state_dict().items()}
    checkpointer = InstSegCheckpointer(target)
    checkpointer.load(save_pth(tmp_path / "a.pth", wrap(state)))
    assert same(source, target)
    assert checkpointer.report == LoadReport(list(target.state_dict()), [], [], [])
    assert "matched" in log.text


def test_no_weights_asked_for():
    model = Model()
    before = copy.deepcopy(model)
    checkpointer = InstSegCheckpointer(model)
    assert checkpointer.load("") == {}
    assert same(model, before)
    assert checkpointer.report is None


def test_backbone_only_with_the_names_of_the_whole_model(tmp_path):
    source, target = Model(), Model()
    state = {f"backbone.{name}": value for name, value in backbone_state(source).items()}
    checkpointer = InstSegCheckpointer(target)
    checkpointer.load(save_pth(tmp_path / "a.pth", state))
    assert same(source.backbone, target.backbone)
    assert not same(source.head, target.head)
    assert checkpointer.report is not None
    assert checkpointer.report.missing == ["head.weight", "head.bias"]
    assert len(checkpointer.report.matched) == 10


@pytest.mark.parametrize("prefix", ["", "module."])
def test_backbone_only_with_names_of_its_own(tmp_path, prefix):
    source, target = Model(), Model()
    state = {prefix + name: value for name, value in backbone_state(source).items()}
    state[prefix + "fc.weight"] = torch.zeros(10, 4)
    checkpointer = InstSegCheckpointer(target)
    checkpointer.load(save_pth(tmp_path / "a.pth", state))
    assert same(source.backbone, target.backbone)
    assert checkpointer.report is not None
    assert checkpointer.report.unexpected == ["backbone.fc.weight"]


def test_zoo_pickle_matches_by_the_ends_of_names(tmp_path):
    source, target = Model(), Model()
    model = {name: value.numpy() for name, value in backbone_state(source).items()}
    content = {"model": model, "__author__": "torchvision", "matching_heuristics": True}
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps(content))
    checkpointer = InstSegCheckpointer(target)
    checkpointer.load(str(tmp_path / "R-50.pkl"))
    assert same(source.backbone, target.backbone)
    assert checkpointer.report is not None
    assert checkpointer.report.missing == ["head.weight", "head.bias"]


class StemModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.ModuleDict({"stem": BasicStem(norm="FrozenBN")})


def test_caffe2_pickle_is_renamed_and_statistics_that_modules_fill_in_are_no_fault(tmp_path):
    rng = np.random.default_rng(0)
    blobs = {
        "conv1_w": rng.normal(size=(64, 3, 7, 7)).astype(np.float32),
        "conv1_w_momentum": np.zeros((64, 3, 7, 7), np.float32),
        "res_conv1_bn_s": rng.normal(size=64).astype(np.float32),
        "res_conv1_bn_b": rng.normal(size=64).astype(np.float32),
        "pred_w": np.zeros((1000, 2048), np.float32),
    }
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps({"blobs": blobs}, 2))
    model = StemModel()
    checkpointer = InstSegCheckpointer(model)
    checkpointer.load(str(tmp_path / "R-50.pkl"))
    conv = model.backbone["stem"].conv1
    assert isinstance(conv.norm, FrozenBatchNorm2d)
    assert torch.equal(conv.weight, torch.from_numpy(blobs["conv1_w"]))
    assert torch.equal(conv.norm.bias, torch.from_numpy(blobs["res_conv1_bn_b"]))
    prefix = "backbone.stem.conv1."
    assert checkpointer.report == LoadReport(
        matched=[f"{prefix}weight", f"{prefix}norm.weight", f"{prefix}norm.bias"],
        missing=[],
        unexpected=["linear.weight"],
        misshaped=[],
    )


def test_query_after_the_path_asks_for_matching_by_ends(tmp_path):
    state = {f"0.{name}": value for name, value in nn.Linear(4, 4).state_dict().items()}
    path = save_pth(tmp_path / "a.pth", state)
    model = nn.Sequential(nn.ModuleDict({"backbone": nn.Sequential(nn.Linear(4, 4))}))
    InstSegCheckpointer(model).load(f"{path}?matching_heuristics=True")
    assert torch.equal(model[0]["backbone"][0].weight, state["0.weight"])
    with pytest.raises(WeightsError, match=r"\['colour'\] after the '\?'"):
        InstSegCheckpointer(model).load(f"{path}?colour=red")


def test_pixel_mean_of_an_old_file_is_no_fault(tmp_path):
    state = Model().state_dict()
    del state["pixel_mean"]
    checkpointer = InstSegCheckpointer(Model())
    checkpointer.load(save_pth(tmp_path / "a.pth", state))
    assert checkpointer.report is not None
    assert checkpointer.report.missing == []
    assert "pixel_mean" not in checkpointer.report.matched


def test_other_class_count_is_listed_and_keeps_its_initial_values(tmp_path, log):
    source, target = Model(num_classes=80), Model(num_classes=3)
    before = copy.deepcopy(target.head)
    checkpointer = InstSegCheckpointer(target)
    checkpointer.load(save_pth(tmp_path / "a.pth", {"model": source.state_dict()}))
    assert same(source.backbone, target.backbone)
    assert same(target.head, before)
    assert checkpointer.report is not None
    assert checkpointer.report.misshaped == [
        ("head.weight", (80, 4), (3, 4)),
        ("head.bias", (80,), (3,)),
    ]
    assert checkpointer.report.missing == []
    warnings = [entry.getMessage() for entry in log.records if entry.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "head.weight: (80, 4) -> (3, 4)" in warnings[0]
    assert "head.bias: (80,) -> (3,)" in warnings[0]


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".pkl"])
def test_every_format_that_is_written_loads_completely(tmp_path, suffix):
    source, target = Model(), Model()
    path = str(tmp_path / f"weights{suffix}")
    write_weights_file(path, source.state_dict())
    checkpointer = InstSegCheckpointer(target)
    checkpointer.load(path)
    checkpointer.require_complete()
    assert same(source, target)


# ---------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("surplus", "complete"),
    [("head.softmax_bias", False), ("backbone.5.weight", False), ("refinement.weight", True)],
)
def test_more_tensors_in_a_part_mean_another_model(tmp_path, surplus, complete):
    state = {**Model().state_dict(), surplus: torch.ones(1)}
    checkpointer = InstSegCheckpointer(Model())
    checkpointer.load(save_pth(tmp_path / "a.pth", {"model": state}))
    if complete:
        checkpointer.require_complete()
        return
    with pytest.raises(WeightsError, match=rf"no use for, for example {surplus}: .* another model"):
        checkpointer.require_complete()


def test_file_of_another_model(tmp_path):
    path = save_pth(tmp_path / "a.pth", {"features.0.w": torch.ones(2, 3), "x": torch.ones(1)})
    with pytest.raises(WeightsError) as error:
        InstSegCheckpointer(Model()).load(path)
    message = str(error.value)
    assert message.startswith(f"MODEL.WEIGHTS {path}: it does not fit this model")
    assert "of the 10 tensors of 'backbone', 0 were found" in message
    assert "in the model only: backbone.0.weight (4, 4), " in message
    assert "in the file only:  features.0.w (2, 3), x (1,)" in message
    assert "MODEL.WEIGHTS ''" in message


@pytest.mark.parametrize(("kept", "fits"), [(10, True), (9, True), (8, False), (0, False)])
def test_nine_tenths_of_the_backbone_are_needed(tmp_path, kept, fits):
    state = Model().state_dict()
    for name in [name for name in state if name.startswith("backbone.")][kept:]:
        del state[name]
    checkpointer = InstSegCheckpointer(Model())
    path = save_pth(tmp_path / "a.pth", {"model": state})
    if fits:
        checkpointer.load(path)
    else:
        with pytest.raises(WeightsError, match=rf"of the 10 tensors of 'backbone', {kept} were"):
            checkpointer.load(path)


def test_backbone_of_other_width(tmp_path):
    path = save_pth(tmp_path / "a.pth", Model(width=8).state_dict())
    with pytest.raises(WeightsError, match="10 tensors of 'backbone', 0 were") as error:
        InstSegCheckpointer(Model()).load(path)
    assert "backbone.0.weight (4, 4) in the model, (8, 8) in the file" in str(error.value)


def test_heads_alone_do_not_hide_a_lost_backbone(tmp_path):
    state = {name: value for name, value in Model().state_dict().items() if "head" in name}
    with pytest.raises(WeightsError, match="10 tensors of 'backbone', 0 were"):
        InstSegCheckpointer(Model()).load(save_pth(tmp_path / "a.pth", state))


def test_another_submodule_can_be_the_one_that_matters(tmp_path):
    state = {f"head.{name}": value for name, value in Model().head.state_dict().items()}
    path = save_pth(tmp_path / "a.pth", state)
    InstSegCheckpointer(Model(), backbone="head").load(path)
    InstSegCheckpointer(Model(), backbone="absent").load(path)
    other = save_pth(tmp_path / "b.pth", {"x": torch.ones(1)})
    with pytest.raises(WeightsError, match="12 tensors of the model, 0 were"):
        InstSegCheckpointer(Model(), backbone="absent").load(other)


def test_batch_counters_do_not_count(tmp_path):
    model = nn.ModuleDict({"backbone": nn.Sequential(nn.BatchNorm2d(2))})
    state = {n: v for n, v in model.state_dict().items() if "num_batches" not in n}
    InstSegCheckpointer(model).load(save_pth(tmp_path / "a.pth", state))


def test_names_that_fit_several_tensors(tmp_path):
    content = {"model": {"weight": np.zeros((4, 4))}, "__author__": "x", "matching_heuristics": 1}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(WeightsError, match=r"a\.pkl: the names in the file are ambiguous"):
        InstSegCheckpointer(Model()).load(str(tmp_path / "a.pkl"))


def test_damaged_file_names_key_and_path_once(tmp_path):
    (tmp_path / "a.pth").write_bytes(b"")
    checkpointer = InstSegCheckpointer(Model())
    for _ in range(2):  # an error leaves nothing behind
        with pytest.raises(WeightsError, match=r"^MODEL\.WEIGHTS: .*the file is empty") as error:
            checkpointer.load(str(tmp_path / "a.pth"))
    assert str(error.value).count("a.pth") == 1


@pytest.mark.parametrize("path", ["none.pth", "/none/a.pkl", "s3://bucket/a.pth"])
def test_absent_file(path):
    with pytest.raises(WeightsError, match="no such file") as error:
        InstSegCheckpointer(Model()).load(path)
    assert f"MODEL.WEIGHTS {path}" in str(error.value)
    assert "MODEL.WEIGHTS ''" in str(error.value)


def test_folder_instead_of_a_file(tmp_path):
    with pytest.raises(WeightsError, match="it is a folder"):
        InstSegCheckpointer(Model()).load(str(tmp_path))


def test_absent_file_in_the_layout_of_the_authors():
    with pytest.raises(WeightsError) as error:
        InstSegCheckpointer(Model()).load("pretrained_models/R-50.pkl")
    assert "detectron2://ImageNetPretrained/torchvision/R-50.pkl" in str(error.value)


@pytest.mark.parametrize(
    ("path", "address"),
    [
        ("https://host/a.pth", "https://host/a.pth"),
        (
            "detectron2://ImageNetPretrained/torchvision/R-50.pkl",
            "https://dl.fbaipublicfiles.com/detectron2/ImageNetPretrained/torchvision/R-50.pkl",
        ),
    ],
)
def test_no_network(monkeypatch, tmp_path, path, address):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))

    def fail(*_, **__):
        raise URLError("no route to host")

    monkeypatch.setattr("iopath.common.file_io.download", fail)
    with pytest.raises(WeightsError, match="no route to host") as error:
        InstSegCheckpointer(Model()).load(path)
    message = str(error.value)
    assert f"fetching {address} failed" in message
    assert f"MODEL.WEIGHTS /path/to/{address.rsplit('/', 1)[1]}" in message
    # Where the message says is where a copy is found, still without network.
    cached = next(line.strip() for line in message.splitlines() if str(tmp_path) in line)
    os.makedirs(os.path.dirname(cached), exist_ok=True)
    source, target = Model(), Model()
    write_weights_file(cached, source.state_dict())
    InstSegCheckpointer(target).load(path)
    assert same(source, target)


def test_unknown_catalogue_name():
    with pytest.raises(WeightsError, match="fetching catalog://none failed"):
        InstSegCheckpointer(Model()).load("catalog://none")
