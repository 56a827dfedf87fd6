"""The trunks of DeepMask: Detectron2's ResNet and VGG, padded by mirroring.

Importing this package registers them with Detectron2.
"""

from .resnet import MirroredResNet, build_mirrored_resnet_backbone
from .vgg import VGG, build_vgg_backbone

__all__ = [
    "VGG",
    "MirroredResNet",
    "build_mirrored_resnet_backbone",
    "build_vgg_backbone",
]
