"""Detectron2's ResNet as a trunk: padded by mirroring, with a feature at stride 2.

Parameters have Detectron2's names, so that its ImageNet weights load.
"""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone.resnet import (
    BasicStem,
    ResNet,
    ResNetBlockBase,
    build_resnet_backbone,
)
from torch import Tensor
from torch.nn import functional as F

from instseg_d2.errors import ConfigError

from ..options import choose
from ..padding import PADDING_MODES, set_padding_mode

FEATURES = ("stem", "res2", "res3", "res4", "res5")
DEPTHS = (18, 34, 50, 101, 152)


class MirroredResNet(ResNet):
    """ResNet whose feature ``stem`` (stride 2) is taken before the max-pooling.

    The others are Detectron2's: ``res2`` to ``res5``, at strides 4 to 32. Stages after the deepest
    one wanted are not part of the module.
    """

    def __init__(
        self,
        stem: BasicStem,
        stages: Sequence[Sequence[ResNetBlockBase]],
        *,
        out_features: Sequence[str],
        padding: str = "symmetric",
        stem_padding: str = "",
    ) -> None:
        """
        Args:
            stem: Detectron2's; its pooling is done here.
            stages: the blocks of ``res2`` and so on.
            out_features: of :data:`FEATURES`.
            padding: see :mod:`sharpmask_d2.padding`.
            stem_padding: of the first convolution; "": as ``padding``.

        Raises:
            ConfigError: a name that is no feature, none at all, or an unknown padding.
        """
        _check_features(out_features)
        super().__init__(stem, [list(stage) for stage in stages], out_features=list(out_features))
        self._out_feature_strides["stem"] = stem.conv1.stride[0]
        set_padding_mode(self, padding)
        if stem_padding:
            choose(PADDING_MODES, stem_padding, "MODEL.SHARP_MASK.STEM_PADDING")
            set_padding_mode(self.stem, stem_padding)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) -> {feature name: (B, channels, H / stride, W / stride)}, rounded up."""
        x = F.relu_(self.stem.conv1(x))
        outputs = {"stem": x}
        x = F.max_pool2d(x, kernel_size=3, stride=2, padding=1)
        for name, stage in zip(self.stage_names, self.stages, strict=True):
            x = stage(x)
            outputs[name] = x
        return {name: outputs[name] for name in self._out_features}


@BACKBONE_REGISTRY.register()
def build_mirrored_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> MirroredResNet:
    """:class:`MirroredResNet` by ``MODEL.RESNETS``, padded by ``MODEL.SHARP_MASK.PADDING`` and
    ``STEM_PADDING``."""
    node = cfg.MODEL.RESNETS
    padding, stem_padding = cfg.MODEL.SHARP_MASK.PADDING, cfg.MODEL.SHARP_MASK.STEM_PADDING
    _check_features(node.OUT_FEATURES)
    if node.DEPTH not in DEPTHS:
        raise ConfigError(
            f"MODEL.RESNETS.DEPTH is {node.DEPTH}; here are {', '.join(map(str, DEPTHS))}"
        )
    if any(node.DEFORM_ON_PER_STAGE) and padding != "zeros":
        raise ConfigError(
            "MODEL.RESNETS.DEFORM_ON_PER_STAGE: deformable convolutions see zeros beyond the edge, "
            f"but MODEL.SHARP_MASK.PADDING is {padding}; give regular ones, or PADDING zeros"
        )
    net = build_resnet_backbone(cfg, input_shape)  # with the first stages frozen, if wanted
    return MirroredResNet(
        net.stem,
        net.stages,
        out_features=node.OUT_FEATURES,
        padding=padding,
        stem_padding=stem_padding,
    )


def _check_features(names: Sequence[str]) -> None:
    if not names or any(name not in FEATURES for name in names):
        raise ConfigError(
            f"MODEL.RESNETS.OUT_FEATURES is {list(names)}; "
            f"the features here are {', '.join(FEATURES)}"
        )
