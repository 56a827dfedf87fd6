"""Every kind of network as ONNX and as TorchScript, compared with the model in PyTorch."""

import pytest
import torch

from instseg_d2.config import load_config
from instseg_d2.export import formats, run
from instseg_d2.export.settings import TOLERANCES, ExportSettings
from instseg_d2.modeling import build_model
from tests.small_sparseinst import keep_first_blocks, spread_answers

#: By backbone; r50_giam itself is what tests of the program export.
BACKBONES = (
    "r50_dcn_giam_aug",
    "r50vd_dcn_giam_aug",
    "cspdarknet53_giam",
    "pvt_b1_giam",
    "pvt_b2_li_giam",
)


def export(name, form, tiny_overrides):
    cfg = load_config(f"sparseinst/sparse_inst_{name}", tiny_overrides)
    model = build_model(cfg).eval()
    keep_first_blocks(model.backbone)
    bend_offsets(model)
    spread_answers(model)
    _, results = run.export_model(cfg, model, ExportSettings(), formats.FORMATS[form], name)
    assert all(result.holds(TOLERANCES["float32"]) for result in results)
    assert all(result.outlined > result.instances // 2 > 0 for result in results)


@torch.no_grad()
def bend_offsets(model):
    """The offsets of deformable convolutions begin as zeros, which any convolution could follow."""
    for name, parameter in model.named_parameters():
        if "conv2_offset" in name:
            torch.nn.init.normal_(parameter, std=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKBONES)
def test_onnx(name, tiny_overrides):
    export(name, "onnx", tiny_overrides)


@pytest.mark.parametrize("name", [*BACKBONES, "r50_base", "r50_giam_soft"])
def test_torchscript(name, tiny_overrides):
    export(name, "torchscript", tiny_overrides)
