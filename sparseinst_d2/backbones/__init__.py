"""The authors' backbones beside Detectron2's ResNet, on timm's modules.

Importing this package registers them with Detectron2. Parameters have the names of the published
checkpoints.
"""

from .csp_darknet import CSPDarkNet, build_cspnet_backbone
from .pvt import PyramidVisionTransformer, build_pyramid_vision_transformer
from .resnet_vd import ResNetVD, build_resnet_vd_backbone

__all__ = [
    "CSPDarkNet",
    "PyramidVisionTransformer",
    "ResNetVD",
    "build_cspnet_backbone",
    "build_pyramid_vision_transformer",
    "build_resnet_vd_backbone",
]
