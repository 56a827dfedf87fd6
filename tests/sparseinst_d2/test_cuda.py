"""What only a GPU can show: equality with the CPU."""

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
