"""The training loop in mixed precision; a loss scaler does the same arithmetic on the CPU."""

import functools

import pytest
import torch
from detectron2.engine import AMPTrainer, SimpleTrainer
from torch import Tensor, nn

from instseg_d2.config import load_config
from instseg_d2.engine.amp import MixedPrecisionTrainer
from instseg_d2.errors import ConfigError, DeviceError
from instseg_d2.modeling import amp_dtype, check_training
from instseg_d2.solver import build_optimizer

# ------------------------------------------------------------------------------- the config


@pytest.fixture
def old_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that has float16 only."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: False)


def amp_config(device: str, dtype: str, enabled: bool = True):
    overrides = ["MODEL.DEVICE", device, "SOLVER.AMP.DTYPE", dtype]
    return load_config("", [*overrides, "SOLVER.AMP.ENABLED", str(enabled)])


@pytest.mark.parametrize(
    ("device", "name", "dtype"),
    [
        ("cuda", "auto", torch.float16),
        ("cuda:1", "float16", torch.float16),
        ("cpu", "auto", torch.bfloat16),
        ("cpu", "bfloat16", torch.bfloat16),
    ],
)
def test_a_type_for_each_device(device: str, name: str, dtype: torch.dtype, old_gpu: None) -> None:
    cfg = amp_config(device, name)
    check_training(cfg)
    assert amp_dtype(cfg) == dtype


def test_float16_on_the_cpu_is_refused_and_bfloat16_named() -> None:
    with pytest.raises(ConfigError, match=r"SOLVER\.AMP\.DTYPE bfloat16"):
        check_training(amp_config("cpu", "float16"))
    check_training(amp_config("cpu", "float16", enabled=False))


def test_bfloat16_on_a_gpu_without_it_is_refused(old_gpu: None) -> None:
    with pytest.raises(DeviceError, match=r"SOLVER\.AMP\.DTYPE float16"):
        check_training(amp_config("cuda", "bfloat16"))


@pytest.mark.parametrize("enabled", [True, False])
def test_unknown_types_are_refused(enabled: bool) -> None:
    with pytest.raises(ConfigError, match="'fp16'; known are auto, float16 and bfloat16"):
        check_training(amp_config("cpu", "fp16", enabled))


# --------------------------------------------------------------------------------- the loop


class Net(nn.Module):
    """A linear loss that autocast leaves in float32: the gradient is the input."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
        self.bias = nn.Parameter(torch.tensor([0.5, 0.25, 0.125]))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"loss_a": (self.weight * x).sum(), "loss_b": (self.bias * x * x).sum()}


class Product(nn.Module):
    """Its output is one loss without a name."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x


def cpu_trainer(
    model: nn.Module,
    data: list[Tensor],
    optimizer: torch.optim.Optimizer | None = None,
    dtype: torch.dtype = torch.float16,
    **kwargs: object,
) -> MixedPrecisionTrainer:
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=1.0)
    return MixedPrecisionTrainer(model, data, optimizer, device_type="cpu", dtype=dtype, **kwargs)


def sgd(model: nn.Module, clip_type: str) -> torch.optim.Optimizer:
    cfg = load_config("", ["SOLVER.OPTIMIZER", "SGD", "SOLVER.BASE_LR", "0.1"])
    cfg.SOLVER.WEIGHT_DECAY = 0.0
    if clip_type:
        cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
        cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = clip_type
        cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 0.5
    return build_optimizer(cfg, model)


@pytest.mark.parametrize("clip_type", ["", "full_model", "norm", "value"])
@pytest.mark.parametrize("fused", [False, True])
def test_scaling_changes_no_step_whatever_clips(
    monkeypatch: pytest.MonkeyPatch, clip_type: str, fused: bool
) -> None:
    """A fused optimiser unscales within its step, later than the clipping looks."""
    monkeypatch.setattr(torch.optim, "SGD", functools.partial(torch.optim.SGD, fused=fused))
    data = [torch.tensor([1.0, 20.0, 300.0]), torch.tensor([0.01, -0.1, 0.1]), torch.ones(3)]
    plain, scaled = Net(), Net()
    SimpleTrainer(plain, data, sgd(plain, clip_type)).train(0, len(data))
    trainer = cpu_trainer(scaled, data, sgd(scaled, clip_type))
    trainer.train(0, len(data))
    assert trainer.grad_scaler.get_scale() > 1
    torch.testing.assert_close(scaled.state_dict(), plain.state_dict())


def test_gradients_that_overflow_skip_the_step_and_lower_the_scale() -> None:
    """1e34 x 65536 is beyond float32, 1e34 x 32768 is not."""
    model = Product()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-34)
    trainer = cpu_trainer(model, [torch.tensor(1e34)] * 2, optimizer)
    trainer.train(0, 1)
    assert model.weight.item() == 2
    assert trainer.grad_scaler.get_scale() == 32768
    trainer.train(1, 2)
    assert model.weight.item() == pytest.approx(1)
    assert trainer.grad_scaler.get_scale() == 32768


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_loss_that_is_not_finite_ends_the_training(dtype: torch.dtype) -> None:
    model = Net()
    trainer = cpu_trainer(model, [torch.tensor([torch.inf, 1.0, 1.0])], dtype=dtype)
    with pytest.raises(FloatingPointError, match="loss_a"):
        trainer.train(0, 1)
    torch.testing.assert_close(model.state_dict(), Net().state_dict())


class Watched(nn.Module):
    """Notes what autocast does in the forward and in the backward pass, and the gradients before
    the forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3, bias=False)
        self.seen: list[object] = []

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.linear(x)
        self.seen += ["forward", y.dtype, self.linear.weight.grad is None]
        y.register_hook(lambda _: self.seen.extend(["backward", torch.is_autocast_enabled("cpu")]))
        return {"loss": y.float().pow(2).mean()}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("before", [True, False])
def test_autocast_in_the_forward_pass_only_and_gradients_cleared(
    dtype: torch.dtype, before: bool
) -> None:
    model = Watched()
    data = [torch.ones(2, 3)] * 2
    cpu_trainer(model, data, dtype=dtype, zero_grad_before_forward=before).train(0, 2)
    first = ["forward", dtype, True, "backward", False]
    second = ["forward", dtype, before, "backward", False]
    assert model.seen == first + second
    assert model.linear.weight.grad.dtype == torch.float32


@pytest.mark.parametrize("asynchronous", [False, True])
def test_metrics_are_gathered_by_their_period(asynchronous: bool) -> None:
    data = [torch.full((3,), float(value)) for value in range(4)]
    model = Net().requires_grad_(False)
    model.weight.requires_grad_(True)
    optimizer = torch.optim.SGD([model.weight], lr=0.0)
    trainer = cpu_trainer(
        model, data, optimizer, gather_metric_period=2, async_write_metrics=asynchronous
    )
    trainer.train(0, 4)
    history = trainer.storage.histories()
    assert {"data_time", "rank_data_time", "loss_a", "loss_b"} <= set(history)
    # The weights sum to 2, the biases to 0.875.
    assert history["total_loss"].values() == [(2.0 + 0.875, 1), (6.0 + 9 * 0.875, 3)]


def test_one_tensor_is_the_total_loss() -> None:
    trainer = cpu_trainer(Product(), [torch.tensor(3.0)])
    trainer.train(0, 1)
    assert trainer.storage.histories()["total_loss"].latest() == 6.0


# ------------------------------------------------------------------------------- checkpoints


def test_the_scaler_is_saved_and_restored() -> None:
    data = [torch.ones(3)] * 3
    trainer = cpu_trainer(Net(), data, grad_scaler=torch.amp.GradScaler("cpu", init_scale=512.0))
    trainer.train(0, 3)
    other = cpu_trainer(Net(), data)
    other.load_state_dict(trainer.state_dict())
    assert other.iter == trainer.iter
    assert other.grad_scaler.state_dict() == trainer.grad_scaler.state_dict()
    assert other.grad_scaler.get_scale() == 512
    assert other.grad_scaler.state_dict()["_growth_tracker"] == 3


def test_checkpoints_of_detectron2_are_resumed_and_resume_it() -> None:
    def detectron2_trainer(init_scale: float) -> AMPTrainer:
        model = Net()
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        scaler = torch.amp.GradScaler("cpu", init_scale=init_scale)
        return AMPTrainer(model, [], optimizer, grad_scaler=scaler)

    ours = cpu_trainer(Net(), [])
    ours.load_state_dict(detectron2_trainer(256.0).state_dict())
    assert ours.grad_scaler.get_scale() == 256
    theirs = detectron2_trainer(128.0)
    theirs.load_state_dict(ours.state_dict())
    assert theirs.grad_scaler.get_scale() == 256


@pytest.mark.parametrize("source", ["float32", "bfloat16", "disabled scaler"])
def test_a_checkpoint_without_a_scaler_starts_a_new_one(source: str) -> None:
    model, data = Net(), [torch.ones(3)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.25)
    disabled = torch.amp.GradScaler("cpu", enabled=False)
    trainer = {
        "float32": SimpleTrainer(model, data, optimizer),
        "bfloat16": cpu_trainer(model, data, optimizer, dtype=torch.bfloat16),
        "disabled scaler": AMPTrainer(model, data, optimizer, grad_scaler=disabled),
    }[source]
    fresh = cpu_trainer(Net(), data)
    fresh.load_state_dict(trainer.state_dict())
    assert fresh.grad_scaler.get_scale() == 65536
    assert fresh.optimizer.param_groups[0]["lr"] == 0.25


def test_a_scaler_in_the_checkpoint_is_left_unread_without_need() -> None:
    data = [torch.ones(3)]
    state = cpu_trainer(Net(), data).state_dict()
    for trainer in (
        cpu_trainer(Net(), data, dtype=torch.bfloat16),
        SimpleTrainer(model := Net(), data, torch.optim.SGD(model.parameters(), lr=0.5)),
    ):
        trainer.load_state_dict(state)
        assert trainer.optimizer.param_groups[0]["lr"] == 1.0
    assert "grad_scaler" in state
    assert "grad_scaler" not in cpu_trainer(Net(), data, dtype=torch.bfloat16).state_dict()


@pytest.mark.parametrize("saved", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("resumed", [torch.optim.SGD, torch.optim.AdamW])
def test_the_state_of_another_optimiser_is_refused(
    saved: type[torch.optim.Optimizer], resumed: type[torch.optim.Optimizer]
) -> None:
    model = nn.Linear(1, 1)
    trainers = [
        MixedPrecisionTrainer(
            model, [], kind(model.parameters(), lr=0.1), device_type="cpu", dtype=torch.float32
        )
        for kind in (saved, resumed)
    ]
    state = trainers[0].state_dict()
    if saved is resumed:
        trainers[1].load_state_dict(state)
        return
    with pytest.raises(ValueError, match=r"another optimiser, one with .*(betas|momentum)"):
        trainers[1].load_state_dict(state)


def test_options_of_the_config_that_resuming_passes_over_are_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    trainers = []
    for rate, decay in ((0.1, 0.01), (0.2, 0.01)):
        model = nn.Linear(1, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=rate, weight_decay=decay)
        torch.optim.lr_scheduler.ConstantLR(optimizer)  # notes the rate to begin with
        trainers.append(
            MixedPrecisionTrainer(model, [], optimizer, device_type="cpu", dtype=torch.float32)
        )
    state = trainers[0].state_dict()
    trainers[0].load_state_dict(state)
    assert not caplog.records
    trainers[1].load_state_dict(state)
    assert "it began with: learning rate 0.1 (config: 0.2). To" in caplog.text
