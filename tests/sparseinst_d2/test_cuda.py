"""What only a GPU can show: equality with the CPU, and mixed precision."""

import pytest
import torch

from instseg_d2.config import load_config
from instseg_d2.modeling import build_model

pytestmark = pytest.mark.needs_cuda


@pytest.mark.parametrize("decoder", ["BaseIAMDecoder", "GroupIAMDecoder", "GroupIAMSoftDecoder"])
def test_cuda_equals_cpu(tiny_overrides: list[str], decoder: str) -> None:
    overrides = [*tiny_overrides, "MODEL.SPARSE_INST.DECODER.NAME", decoder]
    model = build_model(load_config("sparseinst/sparse_inst_r50_base", overrides)).eval()
    image = torch.rand(1, 3, 96, 128)
    with torch.no_grad():
        on_cpu = model.decoder(model.encoder(model.backbone(image)))
        model.cuda()
        on_cuda = model.decoder(model.encoder(model.backbone(image.cuda())))
    for name, value in on_cpu.items():
        torch.testing.assert_close(on_cuda[name].cpu(), value, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_mixed_precision_trains_with_finite_gradients(
    tiny_overrides: list[str], dtype: torch.dtype
) -> None:
    """A full-image mask at 640 x 864: sums over its pixels are beyond what float16 can hold."""
    from detectron2.structures import BitMasks, Instances

    overrides = [*tiny_overrides, "MODEL.DEVICE", "cuda"]
    model = build_model(load_config("sparseinst/sparse_inst_r50_giam", overrides)).train()
    instances = Instances((640, 864))
    instances.gt_classes = torch.tensor([1])
    instances.gt_masks = BitMasks(torch.ones(1, 640, 864, dtype=torch.bool))
    inputs = [{"image": torch.randint(256, (3, 640, 864)), "instances": instances}]
    with torch.autocast("cuda", dtype=dtype):
        losses = model(inputs)
    assert all(torch.isfinite(value) for value in losses.values())
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert torch.isfinite(parameter.grad).all(), name
