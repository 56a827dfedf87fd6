"""Prepared models against the models that they are copies of."""

import copy
from typing import Any

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.structures import BitMasks, Instances
from torch import Tensor, nn

from instseg_d2.config import load_config
from instseg_d2.errors import ConfigError, DeviceError
from instseg_d2.inference import InferenceOptions, prepare_for_inference
from instseg_d2.inference.static_part import compiled
from instseg_d2.modeling import build_model

SPARSE_INST = ("r50_base", "r50_giam_soft", "r50vd_dcn_giam", "cspdarknet53_giam", "pvt_b1_giam")
KEYS = ("MODEL.INFERENCE.PRECISION", "MODEL.DEVICE")


def sparse_inst(
    tiny_overrides: list[str], name: str = "r50_giam", device: str = "cpu", **keys: str
) -> nn.Module:
    """Untrained, but with masks of pixels on both sides of the threshold."""
    more = [text for key, value in keys.items() for text in (f"MODEL.{key}", value)]
    overrides = [*tiny_overrides, "MODEL.DEVICE", device, *more]
    model = build_model(load_config(f"sparseinst/sparse_inst_{name}", overrides)).eval()
    nn.init.normal_(model.decoder.inst_branch.mask_kernel.bias)
    return model


def images(*sizes: tuple[int, int]) -> list[dict[str, Any]]:
    return [{"image": 255 * torch.rand(3, *size), "height": 50, "width": 70} for size in sizes]


def padded(model: nn.Module, batch: list[dict[str, Any]]) -> Tensor:
    return model.preprocess(batch).tensor


def assert_same_instances(actual: Instances, expected: Instances) -> None:
    torch.testing.assert_close(actual.pred_classes, expected.pred_classes)
    torch.testing.assert_close(actual.scores, expected.scores, rtol=1e-4, atol=1e-4)
    assert (actual.pred_masks != expected.pred_masks).float().mean() < 0.01


@pytest.mark.parametrize("name", SPARSE_INST)
def test_sparse_inst_is_equal(tiny_overrides: list[str], name: str) -> None:
    model = sparse_inst(tiny_overrides, name)
    prepared = prepare_for_inference(model)
    batch = images((64, 96), (50, 33))
    with torch.no_grad():
        expected, actual = (each.network(padded(model, batch)) for each in (model, prepared))
        for one, other in zip(actual, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
        for one, other in zip(prepared(batch), model(batch), strict=True):
            assert_same_instances(one["instances"], other["instances"])


def test_norms_of_encoder_and_decoder_fold_too(tiny_overrides: list[str]) -> None:
    norms = {"SPARSE_INST.ENCODER.NORM": "BN", "SPARSE_INST.DECODER.NORM": "BN"}
    model = sparse_inst(tiny_overrides, **norms)
    model.train()(_training_batch())  # gives the norms statistics of their own
    prepared = prepare_for_inference(model.eval())
    kinds = (FrozenBatchNorm2d, nn.BatchNorm2d)
    assert not any(isinstance(module, kinds) for module in prepared.modules())
    with torch.no_grad():
        batch = padded(model, images((64, 96)))
        for one, other in zip(prepared.network(batch), model.network(batch), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def _training_batch() -> list[dict[str, Any]]:
    instances = Instances((64, 96))
    instances.gt_classes = torch.tensor([1])
    instances.gt_masks = BitMasks(torch.rand(1, 64, 96) > 0.5)
    return [{"image": 255 * torch.rand(3, 64, 96), "instances": instances}]


@pytest.mark.parametrize("name", ["deepmask_r50", "sharpmask_r50"])
def test_deepmask_and_sharpmask_are_equal(tiny_overrides: list[str], name: str) -> None:
    model = build_model(load_config(f"sharpmask/{name}", tiny_overrides)).eval()
    for module in model.modules():
        if isinstance(module, FrozenBatchNorm2d):
            for buffer in module.buffers():
                buffer.uniform_(0.5, 1.5)
    prepared = prepare_for_inference(model)
    assert not any(isinstance(module, FrozenBatchNorm2d) for module in prepared.modules())
    side = model.window_size + 2 * model.context
    patches = [{"image": 255 * torch.rand(3, side, side), "kind": "mask"} for _ in range(2)]
    with torch.no_grad():
        for actual, expected in zip(prepared(patches), model(patches), strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3)


def test_the_model_itself_is_not_changed(tiny_overrides: list[str]) -> None:
    model = sparse_inst(tiny_overrides)
    state = copy.deepcopy(model.state_dict())
    parameters = [id(parameter) for parameter in model.parameters()]
    prepared = prepare_for_inference(model, InferenceOptions(precision="bfloat16", compile=True))
    assert list(model.state_dict()) == list(state)
    torch.testing.assert_close(dict(model.state_dict()), dict(state), rtol=0, atol=0)
    assert [id(parameter) for parameter in model.parameters()] == parameters
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(parameter.requires_grad for parameter in prepared.parameters())
    model.train()(_training_batch())["loss_ce"].backward()


def test_a_model_in_training_is_refused(tiny_overrides: list[str]) -> None:
    with pytest.raises(ValueError, match=r"eval\(\)"):
        prepare_for_inference(sparse_inst(tiny_overrides).train())


def test_with_everything_off_nothing_happens(tiny_overrides: list[str]) -> None:
    model = sparse_inst(tiny_overrides)
    prepared = prepare_for_inference(model, InferenceOptions(False, False))
    assert list(prepared.state_dict()) == list(model.state_dict())
    batch = padded(model, images((64, 96)))
    with torch.no_grad():
        for one, other in zip(prepared.network(batch), model.network(batch), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_channels_last_reaches_the_whole_network(tiny_overrides: list[str]) -> None:
    prepared = prepare_for_inference(sparse_inst(tiny_overrides))
    with torch.no_grad():
        features = prepared.network(padded(prepared, images((64, 96)))).mask_features
    assert features.is_contiguous(memory_format=torch.channels_last)


def test_any_other_model_runs_as_before() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).eval()
    options = InferenceOptions(precision="bfloat16", compile=True, cuda_graphs=True)
    x = torch.randn(5, 3)
    torch.testing.assert_close(prepare_for_inference(model, options)(x), model(x))


@pytest.mark.parametrize("name", SPARSE_INST)
def test_bfloat16_on_the_cpu_is_close(tiny_overrides: list[str], name: str) -> None:
    model = sparse_inst(tiny_overrides, name)
    prepared = prepare_for_inference(model, InferenceOptions(precision="bfloat16"))
    assert_close_in_half_precision(model, prepared)


def assert_close_in_half_precision(model: nn.Module, prepared: nn.Module) -> None:
    """Outputs in float32 whose error is small beside their spread, and a whole prediction."""
    batch = images((64, 96), (50, 33))
    with torch.no_grad():
        expected, actual = (each.network(padded(model, batch)) for each in (model, prepared))
        for one, other in zip(actual, expected, strict=True):
            assert one.dtype == torch.float32
            assert not torch.equal(one, other)
            # Random weights in deep backbones amplify the rounding.
            assert (one - other).abs().mean() < 0.1 * other.abs().mean()
        for one, other in zip(prepared(batch), model(batch), strict=True):
            assert len(one["instances"]) == pytest.approx(len(other["instances"]), abs=3)


@pytest.mark.slow
def test_encoder_and_decoder_can_be_compiled(tiny_overrides: list[str]) -> None:
    """Without the backbone, which takes a minute."""
    model = prepare_for_inference(sparse_inst(tiny_overrides))

    def network(features: Any) -> Any:
        return model.decoder.instances(model.encoder(features))

    with torch.no_grad():
        features = model.backbone(padded(model, images((64, 96))))
        for one, other in zip(compiled(network)(features), network(features), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


@pytest.mark.needs_cuda
@pytest.mark.parametrize("name", SPARSE_INST)
@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_half_precision_on_a_gpu_is_close(
    tiny_overrides: list[str], name: str, precision: str, cuda_graphs: bool
) -> None:
    model = sparse_inst(tiny_overrides, name, "cuda")
    options = InferenceOptions(precision=precision, cuda_graphs=cuda_graphs)
    assert_close_in_half_precision(model, prepare_for_inference(model, options))


@pytest.mark.needs_cuda
@pytest.mark.parametrize("compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_recorded_sparse_inst_is_equal(tiny_overrides: list[str], compile: bool) -> None:
    """Images of two sizes in turn, so that recordings are used again."""
    model = sparse_inst(tiny_overrides, device="cuda")
    options = InferenceOptions(compile=compile, cuda_graphs=True)
    prepared = prepare_for_inference(model, options)
    with torch.no_grad():
        for size in ((64, 96), (96, 64), (64, 96), (96, 64)):
            batch = images(size)
            for one, other in zip(prepared(batch), model(batch), strict=True):
                torch.testing.assert_close(
                    one["instances"].scores, other["instances"].scores, rtol=1e-2, atol=1e-2
                )


@pytest.mark.parametrize(
    ("precision", "device", "bf16", "error", "message"),
    [
        ("float8", "cpu", True, ConfigError, "float32, float16, bfloat16"),
        ("float16", "cpu", True, ConfigError, "needs a GPU"),
        ("bfloat16", "cuda", False, DeviceError, "give MODEL.INFERENCE.PRECISION float16"),
    ],
)
def test_impossible_precisions_are_named(
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    device: str,
    bf16: bool,
    error: type[Exception],
    message: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: bf16)
    cfg = load_config("", [KEYS[0], precision, KEYS[1], device])
    with pytest.raises(error, match=rf"MODEL\.INFERENCE\.PRECISION.*{message}"):
        InferenceOptions.from_config(cfg)


def test_options_are_read() -> None:
    node = "MODEL.INFERENCE"
    values = {"FOLD_NORMS": False, "CHANNELS_LAST": False, "COMPILE": True, "CUDA_GRAPHS": True}
    pairs = [text for key, value in values.items() for text in (f"{node}.{key}", str(value))]
    cfg = load_config("", [*pairs, KEYS[0], "bfloat16", KEYS[1], "cpu"])
    assert InferenceOptions.from_config(cfg) == InferenceOptions(
        False, False, "bfloat16", True, True
    )
