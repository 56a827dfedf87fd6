import copy
import os
import pickle

import pytest
import torch
from detectron2.engine import SimpleTrainer, hooks
from detectron2.solver import LRMultiplier, WarmupParamScheduler
from fvcore.common.checkpoint import PeriodicCheckpointer
from fvcore.common.param_scheduler import ConstantParamScheduler
from torch import nn

from instseg_d2.checkpoint import InstSegCheckpointer
from instseg_d2.errors import WeightsError
from tests.small_model import Model, same, save_pth


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


def longer():
    model = Model()
    model.extra = nn.Linear(1, 1)
    return model


@pytest.mark.parametrize(
    ("saved", "resumed", "part"),
    [(Model(3), Model(4), "head"), (Model(), longer(), "extra"), (longer(), Model(), "extra")],
)
def test_a_checkpoint_of_another_model_is_not_resumed(tmp_path, saved, resumed, part):
    InstSegCheckpointer(saved, str(tmp_path)).save("model_0000001")
    with pytest.raises(WeightsError, match=f"another model: 2 tensors .* for example {part}"):
        InstSegCheckpointer(resumed, str(tmp_path)).resume_or_load("", resume=True)


def test_resume_without_a_checkpoint_loads_the_weights(tmp_path):
    source, target = Model(), Model()
    path = save_pth(tmp_path / "a.pth", source.state_dict())
    (tmp_path / "run").mkdir()
    InstSegCheckpointer(target, str(tmp_path / "run")).resume_or_load(path, resume=True)
    assert same(source, target)


@pytest.mark.parametrize("damage", ["removed", "truncated", "tag emptied too"])
def test_checkpoint_to_resume_from_is_lost(tmp_path, damage):
    checkpointer = InstSegCheckpointer(Model(), str(tmp_path))
    checkpointer.save("model_1")
    saved = tmp_path / "model_1.pth"
    if damage == "removed":
        saved.unlink()
    elif damage == "truncated":
        saved.write_bytes(saved.read_bytes()[:1000])
    else:
        saved.unlink()
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
