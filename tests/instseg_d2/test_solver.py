import pytest
import torch
from torch import nn

from instseg_d2.config import get_cfg
from instseg_d2.errors import ConfigError
from instseg_d2.solver import build_lr_scheduler, build_optimizer, parameter_groups


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.ModuleDict({"conv": nn.Linear(3, 3), "norm": nn.BatchNorm1d(3)})
        self.head = nn.Linear(3, 1)
        self.norm = nn.LayerNorm(3)
        self.frozen = nn.Linear(1, 1).requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.backbone["norm"](self.backbone["conv"](x))))


def settings_by_name(model: nn.Module, **kwargs: float) -> dict[str, tuple[float, float]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in parameter_groups(model, **kwargs)
        for parameter in group["params"]
    }


def test_backbone_and_norms_have_their_own_settings() -> None:
    settings = settings_by_name(Net(), base_lr=1.0, weight_decay=0.05, backbone_multiplier=0.1)
    assert settings == {
        "backbone.conv.weight": (0.1, 0.05),
        "backbone.conv.bias": (0.1, 0.05),
        "backbone.norm.weight": (0.1, 0.0),
        "backbone.norm.bias": (0.1, 0.0),
        "head.weight": (1.0, 0.05),
        "head.bias": (1.0, 0.05),
        "norm.weight": (1.0, 0.0),
        "norm.bias": (1.0, 0.0),
    }


def test_a_shared_parameter_is_optimised_once() -> None:
    model = Net()
    model.twin = model.head
    groups = parameter_groups(model, base_lr=1.0, weight_decay=0.0)
    parameters = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(parameters) == len(set(parameters)) == 8


@pytest.mark.parametrize(("name", "kind"), [("ADAMW", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_optimiser_by_name(name: str, kind: type[torch.optim.Optimizer]) -> None:
    cfg = get_cfg()
    cfg.SOLVER.OPTIMIZER = name
    assert isinstance(build_optimizer(cfg, Net()), kind)


def test_amsgrad_reaches_adamw() -> None:
    cfg = get_cfg()
    cfg.SOLVER.AMSGRAD = True
    assert build_optimizer(cfg, Net()).defaults["amsgrad"]


def step_length(cfg: object) -> float:
    """How far one SGD step of learning rate 1 moves all parameters together, gradients huge."""
    model = Net()
    optimizer = build_optimizer(cfg, model)
    before = [parameter.clone() for parameter in model.parameters()]
    (model(torch.randn(8, 3)).sum() * 1e4).backward()
    optimizer.step()
    moved = [a - b for a, b in zip(model.parameters(), before, strict=True)]
    return torch.cat([part.flatten() for part in moved]).norm().item()


def test_full_model_clipping_bounds_the_norm_of_all_gradients() -> None:
    cfg = get_cfg()
    cfg.SOLVER.OPTIMIZER, cfg.SOLVER.BASE_LR, cfg.SOLVER.WEIGHT_DECAY = "SGD", 1.0, 0.0
    assert step_length(cfg) > 100
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "full_model"
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 0.5
    assert step_length(cfg) == pytest.approx(0.5, rel=1e-3)
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "value"
    assert step_length(cfg) > 0.5


@pytest.mark.parametrize("key", ["SOLVER.OPTIMIZER", "SOLVER.CLIP_GRADIENTS.CLIP_TYPE"])
def test_unknown_names_are_named_with_their_key(key: str) -> None:
    cfg = get_cfg()
    cfg.merge_from_list(["SOLVER.CLIP_GRADIENTS.ENABLED", True, key, "LION"])
    with pytest.raises(ConfigError, match=key):
        build_optimizer(cfg, Net())


def rates(steps: tuple[int, ...], factors: tuple[float, ...], warmup: int = 0) -> list[float]:
    """The learning rate in each of ten iterations, from a base of 1."""
    cfg = get_cfg()
    cfg.SOLVER.STEPS, cfg.SOLVER.STEP_FACTORS = steps, factors
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.WARMUP_FACTOR = 10, warmup, 0.0
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = build_lr_scheduler(cfg, optimizer)
    result = []
    for _ in range(10):
        result.append(round(optimizer.param_groups[0]["lr"], 6))
        optimizer.step()
        scheduler.step()
    return result


def test_each_interval_has_its_factor() -> None:
    assert rates((3, 6), (1.0, 0.5, 0.1)) == [1.0] * 3 + [0.5] * 3 + [0.1] * 4


def test_factors_beyond_the_end_are_left_out() -> None:
    assert rates((3, 60), (1.0, 0.5, 0.1)) == [1.0] * 3 + [0.5] * 7


def test_factors_follow_a_warmup() -> None:
    assert rates((6,), (0.8, 0.1), warmup=4) == [0.0, 0.2, 0.4, 0.6, 0.8, 0.8] + [0.1] * 4


def test_without_factors_gamma_counts() -> None:
    assert rates((3, 6), ()) == [1.0] * 3 + [0.1] * 3 + [0.01] * 4


@pytest.mark.parametrize(
    ("steps", "factors"), [((3,), (1.0,)), ((3,), (1.0, 0.5, 0.1)), ((6, 3), (1.0, 0.5, 0.1))]
)
def test_factors_that_do_not_fit_the_steps(
    steps: tuple[int, ...], factors: tuple[float, ...]
) -> None:
    with pytest.raises(ConfigError, match=r"STEP_FACTORS.*STEPS"):
        rates(steps, factors)
