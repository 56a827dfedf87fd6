"""The moving average of the weights: its arithmetic, and how checkpoints keep it."""

from pathlib import Path

import pytest
import torch
from torch import nn

from instseg_d2.checkpoint import InstSegCheckpointer
from instseg_d2.config import load_config
from instseg_d2.ema import WeightAverage
from instseg_d2.engine.averaging import check_averaging
from instseg_d2.errors import ConfigError, WeightsError
from tests.small_model import Model, same


def fill(model: nn.Module, value: float) -> None:
    for tensor in model.state_dict().values():
        tensor.fill_(value)


def test_the_average_by_hand() -> None:
    """After t updates the decay is (1 + t) / (10 + t), at most 0.3: 0.1, 2/11, 0.25, 0.3."""
    model = nn.Linear(2, 2)
    fill(model, 1.0)
    ema = WeightAverage(model, decay=0.3)
    expected = 1.0
    for decay, value in zip((0.1, 2 / 11, 0.25, 0.3, 0.3), (2.0, 5.0, -1.0, 0.0, 3.0), strict=True):
        assert ema.current_decay() == pytest.approx(decay)
        fill(model, value)
        ema.update()
        expected = decay * expected + (1 - decay) * value
        for average in ema.average().values():
            torch.testing.assert_close(average, torch.full_like(average, expected))


def test_statistics_are_averaged_counts_copied_and_constants_stay_to_the_bit() -> None:
    model = nn.BatchNorm1d(3)
    ema = WeightAverage(model, decay=0.5)
    model.weight.data.copy_(torch.tensor([0.1, 1 / 3, 7e-9]))
    ema.reset()
    for _ in range(20):
        model(torch.randn(8, 3) + 5)
        ema.update()
    average = ema.average()
    assert torch.equal(average["weight"], model.weight)
    assert average["num_batches_tracked"] == 20
    assert (average["running_mean"] > 0).all()
    assert not torch.equal(average["running_mean"], model.running_mean)


def test_the_average_is_applied_and_taken_back_to_the_bit_also_after_an_error() -> None:
    model = nn.Linear(2, 2)
    ema = WeightAverage(model, 0.9)
    model.weight.data.mul_(3)
    ema.update()
    own = {name: value.clone() for name, value in model.state_dict().items()}
    weight = model.weight

    def evaluate() -> None:
        assert torch.equal(model.weight, ema.average()["weight"])
        assert not torch.equal(model.weight, own["weight"])
        raise RuntimeError("evaluation failed")

    with pytest.raises(RuntimeError, match="evaluation failed"), ema.applied():
        evaluate()
    assert model.weight is weight
    assert all(torch.equal(value, own[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("decay", [-0.1, 1.0, 2.0])
def test_impossible_decays_are_refused(decay: float) -> None:
    with pytest.raises(ConfigError, match=r"MODEL\.EMA\.DECAY"):
        WeightAverage(nn.Linear(1, 1), decay)


def test_precise_statistics_do_not_go_with_it() -> None:
    with pytest.raises(ConfigError, match=r"TEST\.PRECISE_BN"):
        check_averaging(
            load_config("", ["MODEL.EMA.ENABLED", "True", "TEST.PRECISE_BN.ENABLED", "True"])
        )


# ----------------------------------------------------------------------------------- checkpoints


def moved(model: nn.Module, ema: WeightAverage, steps: int = 3) -> None:
    for _ in range(steps):
        for parameter in model.parameters():
            parameter.data.add_(torch.randn_like(parameter))
        ema.update()


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Model, WeightAverage]:
    """A model and its average, saved in the folder."""
    model = Model()
    ema = WeightAverage(model, 0.9)
    moved(model, ema)
    InstSegCheckpointer(model, str(tmp_path), ema=ema).save("model_final", iteration=2)
    return model, ema


def test_a_checkpoint_is_used_with_its_averaged_weights(
    saved: tuple[Model, WeightAverage], tmp_path: Path
) -> None:
    _, ema = saved
    user = Model()
    checkpointer = InstSegCheckpointer(user)
    checkpointer.load(str(tmp_path / "model_final.pth"))
    checkpointer.require_complete()
    assert all(torch.equal(value, ema.average()[n]) for n, value in user.state_dict().items())


def test_resuming_goes_on_exactly(saved: tuple[Model, WeightAverage], tmp_path: Path) -> None:
    model, ema = saved
    other = Model()
    other_ema = WeightAverage(other, 0.9)
    InstSegCheckpointer(other, str(tmp_path), ema=other_ema).resume_or_load("", resume=True)
    assert same(other, model)
    assert other_ema.num_updates == 3
    for one, one_ema in ((model, ema), (other, other_ema)):
        torch.manual_seed(5)
        moved(one, one_ema)
    assert same(other, model)
    for name, value in ema.average().items():
        assert torch.equal(other_ema.average()[name], value)


def test_a_new_run_starts_its_average_from_the_weights_that_it_loads(
    saved: tuple[Model, WeightAverage], tmp_path: Path
) -> None:
    _, ema = saved
    model = Model()
    new = WeightAverage(model, 0.9)
    InstSegCheckpointer(model, str(tmp_path / "new"), ema=new).resume_or_load(
        str(tmp_path / "model_final.pth"), resume=True
    )
    assert new.num_updates == 0
    for name, value in ema.average().items():
        assert torch.equal(model.state_dict()[name], value)
        assert torch.equal(new.average()[name], value)


def test_an_average_can_begin_at_a_checkpoint_without_one(tmp_path: Path) -> None:
    model = Model()
    InstSegCheckpointer(model, str(tmp_path)).save("model_final")
    other = Model()
    ema = WeightAverage(other, 0.9)
    InstSegCheckpointer(other, str(tmp_path), ema=ema).resume_or_load("", resume=True)
    assert same(other, model)
    assert torch.equal(ema.average()["head.weight"], model.head.weight)


def test_resuming_without_the_average_is_refused(
    saved: tuple[Model, WeightAverage], tmp_path: Path
) -> None:
    """The optimiser's state belongs to the weights that were trained."""
    checkpointer = InstSegCheckpointer(Model(), str(tmp_path), trainer=nn.Linear(1, 1))
    with pytest.raises(WeightsError, match=r"MODEL\.EMA\.ENABLED"):
        checkpointer.resume_or_load("", resume=True)


def test_weights_alone_are_not_what_is_resumed(
    saved: tuple[Model, WeightAverage], tmp_path: Path
) -> None:
    model, ema = saved
    checkpointer = InstSegCheckpointer(model, str(tmp_path), ema=ema)
    checkpointer.save_weights("model_best", iteration=1, best={"segm/AP": 3.5})
    content = torch.load(tmp_path / "model_best.pth", weights_only=True)
    assert set(content) == {"model", "iteration", "best"}
    assert torch.equal(content["model"]["head.weight"], ema.average()["head.weight"])
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
