"""SparseInsts with random weights and few layers whose answers look like a trained one's."""

import torch
from detectron2.modeling.backbone.resnet import ResNetBlockBase
from timm.models import cspnet, pvt_v2, resnet
from torch import nn

from instseg_d2.export.verify import pictures

#: What the stages of the backbones consist of.
BLOCKS = (
    ResNetBlockBase,
    resnet.BasicBlock,
    resnet.Bottleneck,
    cspnet.DarkBlock,
    pvt_v2.Block,
)
#: Standard deviations of what layers of the decoder are to give, in the order of the network.
SPREADS = {
    "inst_branch.iam_conv": 3.0,
    "inst_branch.cls_score": 1.0,
    "inst_branch.mask_kernel": 1.0,
    "mask_branch.projection": 1.0,
}


def keep_first_blocks(backbone: nn.Module) -> None:
    """Leave one block a stage: exporting takes as long as there are layers."""
    for stage in list(backbone.modules()):
        is_list = isinstance(stage, nn.Sequential | nn.ModuleList)
        if is_list and any(isinstance(block, BLOCKS) for block in stage):
            del stage[1:]


@torch.no_grad()
def spread_answers(model: nn.Module) -> None:
    """Scale layers of the decoder so that instances differ and masks have inside and outside.

    Those of random weights are all alike, mostly empty or full, and agree whatever an export does.
    """
    image = torch.from_numpy(pictures(1, 96, 128)[0]).permute(2, 0, 1)
    images = model.preprocess([{"image": image}]).tensor
    for name, spread in SPREADS.items():
        layer = model.decoder.get_submodule(name)
        seen: list[torch.Tensor] = []
        with layer.register_forward_hook(lambda *call, seen=seen: seen.append(call[-1])):
            model.network(images)
        values = seen[0].movedim(1, -1) if isinstance(layer, nn.Conv2d) else seen[0]
        scale = spread / values.std()
        layer.weight *= scale
        layer.bias.copy_(scale * (layer.bias - values.flatten(0, -2).mean(dim=0)))
