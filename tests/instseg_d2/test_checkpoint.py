import copy
import logging
import os
import pickle
from urllib.error import URLError

import numpy as np
import pytest
import torch
from detectron2.engine import SimpleTrainer, hooks
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling.backbone.resnet import BasicStem
from detectron2.solver import LRMultiplier, WarmupParamScheduler
from fvcore.common.checkpoint import PeriodicCheckpointer
from fvcore.common.param_scheduler import ConstantParamScheduler
from torch import nn

from instseg_d2.checkpoint import InstSegCheckpointer, LoadReport, make_report, match_names
from instseg_d2.errors import WeightsError


class Model(nn.Module):
    """A backbone of ten tensors and a head whose size depends on the class count."""

    def __init__(self, num_classes=3, width=4):
        super().__init__()
        self.backbone = nn.Sequential(*(nn.Linear(width, width) for _ in range(5)))
        self.head = nn.Linear(width, num_classes)
        self.register_buffer("pixel_mean", torch.zeros(3))

    def forward(self, batch):
        return {"loss": self.head(self.backbone(batch)).square().mean()}


def save_pth(path, content):
    torch.save(content, path)
    return str(path)


def backbone_state(model):
    return {name: value.clone() for name, value in model.backbone.state_dict().items()}


def same(first, second):
    first, second = first.state_dict(), second.state_dict()
    return all(torch.equal(first[name], second[name]) for name in first)


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
    assert len(warnings) == 2
    assert "head.weight" in warnings[0]


# ---------------------------------------------------------------------------------- refusals


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
    assert f"fetching {address} failed" in str(error.value)
    assert "MODEL.WEIGHTS" in str(error.value)


def test_unknown_catalogue_name():
    with pytest.raises(WeightsError, match="fetching catalog://none failed"):
        InstSegCheckpointer(Model()).load("catalog://none")


# ------------------------------------------------------------------------ matching, reporting


def test_exact_names_win_over_the_backbone_prefix():
    model = {"a.w": torch.zeros(1), "backbone.a.w": torch.zeros(1)}
    options = {"heuristics": False, "caffe2": False, "backbone": "backbone"}
    assert list(match_names({"a.w": torch.ones(1)}, model, **options)) == ["a.w"]
    assert list(match_names({"b.w": torch.ones(1)}, model, **options)) == ["b.w"]
    assert match_names({}, model, **options) == {}


def test_report_finds_misshaped_tensors_that_heuristics_left_under_their_old_names():
    report = make_report(
        file_shapes={"m.a.w": (2,), "b.w": (3,), "c.w": (4,)},
        model_shapes={"m.a.w": (2,), "m.b.w": (9,), "m.d.w": (1,)},
        missing=["m.b.w", "m.d.w"],
        unexpected=["b.w", "c.w"],
    )
    assert report == LoadReport(["m.a.w"], ["m.d.w"], ["c.w"], [("m.b.w", (3,), (9,))])
    assert [line.split()[1] for line in report.table().splitlines()[2:]] == ["1", "1", "1", "1"]


# -------------------------------------------------------------------------- saving, resuming


def make_trainer(folder, model):
    """One of Detectron2's trainers with the hooks that have a state, saving every 2 iterations."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    trainer = SimpleTrainer(model, [torch.ones(2, 4)] * 100, optimizer)
    multiplier = WarmupParamScheduler(ConstantParamScheduler(1.0), 0.001, 0.5, "linear")
    scheduler = LRMultiplier(optimizer, multiplier, max_iter=10)
    checkpointer = InstSegCheckpointer(model, str(folder), trainer=trainer)
    trainer.register_hooks(
        [
            hooks.LRScheduler(optimizer, scheduler),
            hooks.PeriodicCheckpointer(checkpointer, period=2),
        ]
    )
    return trainer, checkpointer


def test_resuming_a_detectron2_training_continues_it_exactly(tmp_path):
    model = Model()
    start = copy.deepcopy(model)
    (tmp_path / "whole").mkdir()
    make_trainer(tmp_path / "whole", model)[0].train(0, 6)

    (tmp_path / "parts").mkdir()
    first = copy.deepcopy(start)
    make_trainer(tmp_path / "parts", first)[0].train(0, 4)
    second = Model()
    trainer, checkpointer = make_trainer(tmp_path / "parts", second)
    rest = checkpointer.resume_or_load("unused.pth", resume=True)
    assert rest["iteration"] == trainer.iter == 3
    assert same(first, second)
    trainer.train(trainer.iter + 1, 6)
    assert same(model, second)
    assert (tmp_path / "parts" / "last_checkpoint").read_text() == "model_final.pth"


def test_without_resume_only_the_weights_are_loaded(tmp_path):
    trainer, checkpointer = make_trainer(tmp_path, Model())
    trainer.train(0, 4)
    fresh, other = make_trainer(tmp_path, Model())
    other.resume_or_load(checkpointer.get_checkpoint_file(), resume=False)
    assert same(fresh.model, trainer.model)
    assert not hasattr(fresh, "iter") or fresh.iter != trainer.iter
    assert not fresh.optimizer.state


def test_old_checkpoints_are_dropped_as_by_detectron2(tmp_path):
    periodic = PeriodicCheckpointer(
        InstSegCheckpointer(Model(), str(tmp_path)), period=1, max_iter=4, max_to_keep=2
    )
    for iteration in range(4):
        periodic.step(iteration)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "last_checkpoint",
        "model_0000002.pth",
        "model_0000003.pth",
        "model_final.pth",
    ]


def test_resume_without_a_checkpoint_loads_the_weights(tmp_path):
    source, target = Model(), Model()
    path = save_pth(tmp_path / "a.pth", source.state_dict())
    (tmp_path / "run").mkdir()
    InstSegCheckpointer(target, str(tmp_path / "run")).resume_or_load(path, resume=True)
    assert same(source, target)


@pytest.mark.parametrize("damage", ["removed", "truncated", "tag emptied"])
def test_checkpoint_to_resume_from_is_lost(tmp_path, damage):
    checkpointer = InstSegCheckpointer(Model(), str(tmp_path))
    checkpointer.save("model_1")
    saved = tmp_path / "model_1.pth"
    if damage == "removed":
        saved.unlink()
    elif damage == "truncated":
        saved.write_bytes(saved.read_bytes()[:1000])
    else:
        (tmp_path / "last_checkpoint").write_text("")
    with pytest.raises(WeightsError, match="The checkpoint to resume from") as error:
        checkpointer.resume_or_load("unused.pth", resume=True)
    assert str(tmp_path / "last_checkpoint") in str(error.value)
    assert "without --resume" in str(error.value)


def test_training_state_of_another_run(tmp_path):
    trainer, _ = make_trainer(tmp_path, Model())
    trainer.train(0, 2)
    trainer, checkpointer = make_trainer(tmp_path, Model())
    trainer.optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]})
    with pytest.raises(WeightsError, match="training state 'trainer' does not fit this run"):
        checkpointer.resume_or_load("", resume=True)


class Unsaveable:
    def state_dict(self):
        return {"function": lambda: None}


def test_failing_save_leaves_the_last_checkpoint_whole(tmp_path):
    model = Model()
    InstSegCheckpointer(model, str(tmp_path)).save("model", iteration=1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    broken = InstSegCheckpointer(Model(), str(tmp_path), odd=Unsaveable())
    with pytest.raises((AttributeError, pickle.PicklingError)):
        broken.save("model", iteration=2)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_save_replaces_the_file_only_when_it_is_complete(tmp_path, monkeypatch):
    checkpointer = InstSegCheckpointer(Model(), str(tmp_path))
    checkpointer.save("model", iteration=1)
    replace, seen = os.replace, []

    def spy(source, target):
        seen.append(os.path.basename(target))
        if str(target).endswith(".pth"):
            assert torch.load(source)["iteration"] == 2
            assert torch.load(target)["iteration"] == 1
        replace(source, target)

    monkeypatch.setattr(os, "replace", spy)
    checkpointer.save("model", iteration=2)
    assert seen == ["model.pth", "last_checkpoint"]
    assert torch.load(tmp_path / "model.pth")["iteration"] == 2
    assert checkpointer.get_all_checkpoint_files() == [str(tmp_path / "model.pth")]


def test_workers_save_nothing(tmp_path):
    InstSegCheckpointer(Model(), str(tmp_path), save_to_disk=False).save("model")
    InstSegCheckpointer(Model()).save("model")
    assert list(tmp_path.iterdir()) == []
