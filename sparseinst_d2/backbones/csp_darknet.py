"""CSPDarkNet-53 (CSPNet, arXiv 1911.11929) and DarkNet-53 (YOLOv3, arXiv 1804.02767)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import timm
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from torch import Tensor, nn

from instseg_d2.errors import ConfigError

from .stages import StagedBackbone, freeze_first, set_norm

NAMES = ("cspdarknet53", "darknet53")


class CSPDarkNet(StagedBackbone):
    """timm's ``cspdarknet53`` or ``darknet53``; features ``csp0`` to ``csp4``, strides 2 to 32."""

    stem: nn.Module
    stages: nn.Sequential

    @configurable
    def __init__(
        self,
        *,
        name: str = "cspdarknet53",
        out_features: Sequence[str] = ("csp2", "csp3", "csp4"),
        norm: str = "",
        freeze_at: int = 0,
    ) -> None:
        """
        Args:
            name: one of :data:`NAMES`.
            out_features: of ``csp0`` to ``csp4``.
            norm: one of :data:`.stages.NORMS`.
            freeze_at: 0: nothing is frozen, 1: the stem, 2: the stem and ``csp0``, and so on.

        Raises:
            ConfigError: one of them is not possible.
        """
        super().__init__()
        if name not in NAMES:
            raise ConfigError(f"MODEL.CSPNET.NAME is {name!r}; here are {', '.join(NAMES)}")
        net: Any = timm.create_model(name, num_classes=0)
        self.stem, self.stages = net.stem, net.stages
        features = {
            f"csp{index}": ShapeSpec(channels=info["num_chs"], stride=info["reduction"])
            for index, info in enumerate(net.feature_info[1:])
        }
        self.set_features(features, out_features, "MODEL.CSPNET.OUT_FEATURES")
        set_norm(self, norm, "MODEL.CSPNET.NORM")
        parts = ["stem", *(f"stages.{name}" for name, _ in self.stages.named_children())]
        freeze_first(self, [[part] for part in parts], freeze_at)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        node = cfg.MODEL.CSPNET
        return {
            "name": node.NAME,
            "out_features": node.OUT_FEATURES,
            "norm": node.NORM,
            "freeze_at": cfg.MODEL.BACKBONE.FREEZE_AT,
        }

    def stage_outputs(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        outputs = []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        return outputs


@BACKBONE_REGISTRY.register()
def build_cspnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> CSPDarkNet:
    """:class:`CSPDarkNet` by ``MODEL.CSPNET``."""
    return CSPDarkNet(cfg, input_shape)
