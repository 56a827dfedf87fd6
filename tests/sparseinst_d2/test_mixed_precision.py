"""Mixed precision, with every backbone and decoder: close to float32, and a whole training."""

from pathlib import Path

import pytest
import torch
from detectron2.structures import BitMasks, Instances
from torch import Tensor, nn

from instseg_d2.config import load_config
from instseg_d2.data.config_datasets import register_config_datasets
from instseg_d2.engine import Trainer
from instseg_d2.modeling import build_model

#: Two steps with other random paths cannot be compared.
NO_DROPPED_PATHS = ["MODEL.PVT.DROP_PATH_RATE", "0.0"]

#: Name -> (config, overrides beside the tiny ones).
MODELS: dict[str, tuple[str, list[str]]] = {
    "ResNet, base": ("sparseinst/sparse_inst_r50_base", []),
    "ResNet, groups": ("sparseinst/sparse_inst_r50_giam", []),
    "ResNet, softmax": ("sparseinst/sparse_inst_r50_giam_soft", []),
    "ResNet, deformable": ("sparseinst/sparse_inst_r50_dcn_giam_aug", []),
    "ResNet-vd, deformable": ("sparseinst/sparse_inst_r50vd_dcn_giam", []),
    "CSPDarkNet": ("sparseinst/sparse_inst_cspdarknet53_giam", []),
    "DarkNet": ("sparseinst/sparse_inst_darknet53_giam", []),
    "PVTv2": ("sparseinst/sparse_inst_pvt_b1_giam", NO_DROPPED_PATHS),
    "PVTv2, linear": ("sparseinst/sparse_inst_pvt_b2_li_giam", NO_DROPPED_PATHS),
}
each_model = pytest.mark.parametrize("name", MODELS)
each_type = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])


def model_of(name: str, tiny_overrides: list[str], device: str) -> nn.Module:
    config, overrides = MODELS[name]
    cfg = load_config(config, [*tiny_overrides, *overrides, "MODEL.DEVICE", device])
    return build_model(cfg).train()


def inputs_of(masks: Tensor) -> list[dict]:
    """One image of noise with instances of the classes 0, 1, ..."""
    instances = Instances(tuple(masks.shape[1:]))
    instances.gt_classes = torch.arange(len(masks))
    instances.gt_masks = BitMasks(masks)
    return [{"image": torch.randint(256, (3, *masks.shape[1:])), "instances": instances}]


def two_rectangles() -> Tensor:
    masks = torch.zeros(2, 96, 128, dtype=torch.bool)
    masks[0, 10:50, 10:60] = True
    masks[1, 40:90, 60:120] = True
    return masks


def losses_and_gradients(
    model: nn.Module, inputs: list[dict], device: str, dtype: torch.dtype | None
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Of one step; ``dtype`` None: in float32."""
    model.zero_grad()
    with torch.autocast(device, dtype=dtype, enabled=dtype is not None):
        losses = model(inputs)
    sum(losses.values()).backward()
    trainable = {name: value for name, value in model.named_parameters() if value.requires_grad}
    assert [name for name, value in trainable.items() if value.grad is None] == []
    values = {name: value.item() for name, value in losses.items()}
    return values, {name: value.grad.clone() for name, value in trainable.items()}


class FirstMatches(nn.Module):
    """Gives the matches of its first call ever after: an untrained model's hang on the rounding."""

    def __init__(self, matcher: nn.Module) -> None:
        super().__init__()
        self.matcher = matcher
        self.first = None

    def forward(self, *args: object) -> list[tuple[Tensor, Tensor]]:
        matches = self.matcher(*args)
        self.first = self.first or matches
        return self.first


def assert_a_step_is_close(model: nn.Module, device: str, dtype: torch.dtype) -> None:
    model.criterion.matcher = FirstMatches(model.criterion.matcher)
    inputs = inputs_of(two_rectangles())
    exact, exact_gradients = losses_and_gradients(model, inputs, device, None)
    losses, gradients = losses_and_gradients(model, inputs, device, dtype)
    # Random weights in deep backbones amplify the rounding; an unrelated gradient would give 0.
    assert losses == pytest.approx(exact, rel=0.1, abs=0.01)
    assert losses != exact  # something was computed in half precision
    for name, gradient in gradients.items():
        assert gradient.dtype == torch.float32, name
        assert torch.isfinite(gradient).all(), name
    flat, exact_flat = (
        torch.cat([gradient.flatten() for gradient in some.values()])
        for some in (gradients, exact_gradients)
    )
    assert torch.cosine_similarity(flat, exact_flat, dim=0) > 0.5


def train(
    name: str, tiny_overrides: list[str], output: Path, device: str, *more: str
) -> tuple[dict, set[torch.dtype]]:
    """Train, resuming where there is something to resume from.

    Returns:
        the checkpoint, and what types the decoder gave.
    """
    config, overrides = MODELS[name]
    own = ["OUTPUT_DIR", str(output), "MODEL.DEVICE", device, "DATASETS.TEST", "()", *more]
    cfg = load_config(config, [*tiny_overrides, *overrides, "SOLVER.AMP.ENABLED", "True", *own])
    register_config_datasets(cfg)
    cfg.freeze()
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=True)
    seen = set()
    trainer.model.decoder.inst_branch.register_forward_hook(
        lambda module, args, outputs: seen.add(outputs[0].dtype)
    )
    trainer.train()
    return torch.load(output / "model_final.pth", weights_only=True), seen


def train_and_resume(
    name: str, tiny_overrides: list[str], output: Path, device: str, dtype: torch.dtype
) -> None:
    more = ["SOLVER.AMP.DTYPE", str(dtype).removeprefix("torch.")]
    final = {}
    for iterations in (2, 3):
        final, seen = train(
            name, tiny_overrides, output, device, *more, "SOLVER.MAX_ITER", str(iterations)
        )
        assert final["iteration"] == iterations - 1
        assert seen == {dtype}
        assert ("grad_scaler" in final["trainer"]["_trainer"]) == (dtype == torch.float16)
    for key, value in final["model"].items():
        assert value.dtype in (torch.float32, torch.int64), key
        assert torch.isfinite(value).all(), key


@each_model
def test_a_step_in_bfloat16_is_close_to_float32(tiny_overrides: list[str], name: str) -> None:
    assert_a_step_is_close(model_of(name, tiny_overrides, "cpu"), "cpu", torch.bfloat16)


@each_model
def test_training_on_the_cpu_saves_and_resumes(
    tiny_overrides: list[str], tmp_path: Path, name: str, recwarn: pytest.WarningsRecorder
) -> None:
    train_and_resume(name, tiny_overrides, tmp_path, "cpu", torch.bfloat16)
    assert [w for w in recwarn if "GradScaler" in str(w.message)] == []


def test_precision_may_change_on_resuming(tiny_overrides: list[str], tmp_path: Path) -> None:
    for iterations, enabled in enumerate(("True", "False", "True"), start=1):
        overrides = ["SOLVER.AMP.ENABLED", enabled, "SOLVER.MAX_ITER", str(iterations)]
        final, seen = train("ResNet, groups", tiny_overrides, tmp_path, "cpu", *overrides)
        assert final["iteration"] == iterations - 1
        assert seen == {torch.bfloat16 if enabled == "True" else torch.float32}


@pytest.mark.needs_cuda
@each_model
@each_type
def test_a_step_on_a_gpu_is_close_to_float32(
    tiny_overrides: list[str], name: str, dtype: torch.dtype
) -> None:
    assert_a_step_is_close(model_of(name, tiny_overrides, "cuda"), "cuda", dtype)


@pytest.mark.needs_cuda
@each_type
def test_sums_over_a_large_mask_do_not_overflow(
    tiny_overrides: list[str], dtype: torch.dtype
) -> None:
    """A full-image mask at 640 x 864: sums over its pixels are beyond what float16 can hold."""
    inputs = inputs_of(torch.ones(1, 640, 864, dtype=torch.bool))
    model = model_of("ResNet, groups", tiny_overrides, "cuda")
    losses, gradients = losses_and_gradients(model, inputs, "cuda", dtype)
    assert all(torch.isfinite(torch.tensor(value)) for value in losses.values())
    for parameter, gradient in gradients.items():
        assert torch.isfinite(gradient).all(), parameter


@pytest.mark.needs_cuda
@each_model
@each_type
def test_training_on_a_gpu_saves_and_resumes(
    tiny_overrides: list[str], tmp_path: Path, name: str, dtype: torch.dtype
) -> None:
    train_and_resume(name, tiny_overrides, tmp_path, "cuda", dtype)
