"""The decoders that turn one feature map into instances (SparseInst, sections 3.3 and 3.4).

Shape shorthand: B images, C channels in, N instances (``num_masks``), G activation maps per
instance (``groups``; 1 in the base decoder), K classes, D kernel length, (h, w) the feature's size
(stride 8).

Both branches see the coordinates of each pixel beside the feature, by :mod:`.split_convs`. Outputs
are logits (``pred_logits``, ``pred_scores``, ``pred_masks``); :mod:`.postprocess` turns
them into scores.
"""

import math
from typing import Any, NamedTuple, cast

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, get_norm
from detectron2.utils.registry import Registry
from torch import Tensor, nn
from torch.nn import functional as F

from instseg_d2.errors import ConfigError
from instseg_d2.registry import look_up

from .split_convs import CoordinateConv2d

SPARSE_INST_DECODER_REGISTRY: Registry = Registry("SPARSE_INST_DECODER")
SPARSE_INST_DECODER_REGISTRY.__doc__ = """
Decoders, named by ``MODEL.SPARSE_INST.DECODER.NAME``.

Called as ``decoder(cfg, in_channels)``; the module maps (B, C, h, w) to the dict that
:meth:`BaseIAMDecoder.forward` describes. The model calls its method ``instances``, see
:meth:`BaseIAMDecoder.instances`, and reads its ``scale_factor``.
"""

#: Every class starts at this probability, so that the easy negatives do not swamp the first steps
#: (RetinaNet's prior).
PRIOR_PROBABILITY = 0.01


def build_decoder(cfg: CfgNode, in_channels: int) -> nn.Module:
    """The decoder that ``MODEL.SPARSE_INST.DECODER.NAME`` names."""
    name = cfg.MODEL.SPARSE_INST.DECODER.NAME
    key = "MODEL.SPARSE_INST.DECODER.NAME"
    return look_up(SPARSE_INST_DECODER_REGISTRY, name, key)(cfg, in_channels)


class InstanceOutputs(NamedTuple):
    """What a decoder says of the instances of B images, the masks not yet made.

    Attributes:
        pred_logits: (B, N, K) class logits.
        pred_scores: (B, N, 1) logits of the mask's IoU.
        kernels: (B, N, D); see :func:`mask_logits`.
        mask_features: (B, D, h, w).
    """

    pred_logits: Tensor
    pred_scores: Tensor
    kernels: Tensor
    mask_features: Tensor


def mask_logits(kernels: Tensor, mask_features: Tensor) -> Tensor:
    """Mask logits at the features' size, of all instances or of those that matter.

    Args:
        kernels: (..., n, D), any n of the instances.
        mask_features: (..., D, h, w).

    Returns:
        (..., n, h, w).
    """
    return (kernels @ mask_features.flatten(-2)).unflatten(-1, mask_features.shape[-2:])


class InstanceBranch(nn.Module):
    """Finds instances by activation maps and describes each by one vector.

    Base form (``groups=None``): one map per instance. Group form: G maps per instance from a
    grouped convolution, whose G vectors are concatenated and mixed by ``fc`` (section 3.3, G-IAM).
    """

    def __init__(
        self,
        *,
        in_channels: int,
        dim: int,
        num_convs: int,
        num_masks: int,
        num_classes: int,
        kernel_dim: int,
        groups: int | None = None,
        norm: str = "",
    ) -> None:
        super().__init__()
        if num_masks < 1:
            raise ConfigError(
                f"MODEL.SPARSE_INST.DECODER.NUM_MASKS is {num_masks}; it must be a number from 1, "
                "the most instances of an image"
            )
        self.num_masks = num_masks
        self.groups = groups or 1
        if dim % self.groups:
            raise ConfigError(
                f"the width of the instance branch ({dim}, MODEL.SPARSE_INST.DECODER.INST.DIM) "
                f"must be a multiple of the groups ({groups}, MODEL.SPARSE_INST.DECODER.GROUPS)"
            )
        self.inst_convs = conv_stack(in_channels, dim, num_convs, norm)
        self.iam_conv = nn.Conv2d(
            dim, num_masks * self.groups, kernel_size=3, padding=1, groups=self.groups
        )
        width = dim * self.groups
        self.fc = None if groups is None else nn.Linear(width, width)
        self.cls_score = nn.Linear(width, num_classes)
        self.mask_kernel = nn.Linear(width, kernel_dim)
        self.objectness = nn.Linear(width, 1)
        self._init_weights()

    def _init_weights(self) -> None:
        prior_logit = -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY)
        for weight, bias in (
            (self.iam_conv.weight, self.iam_conv.bias),
            (self.cls_score.weight, self.cls_score.bias),
        ):
            nn.init.normal_(weight, std=0.01)
            nn.init.constant_(cast(Tensor, bias), prior_logit)
        nn.init.normal_(self.mask_kernel.weight, std=0.01)
        nn.init.zeros_(self.mask_kernel.bias)
        if self.fc is not None:
            weight_init.c2_xavier_fill(self.fc)

    def activations(self, iam_logits: Tensor) -> Tensor:
        """Logits of the activation maps (..., h*w) -> the weights of the pixels, from 0 to 1."""
        return iam_logits.sigmoid()

    def pool(self, iam_logits: Tensor, feature: Tensor) -> Tensor:
        """Means of the feature over the image, weighted by the activation maps.

        Args:
            iam_logits: (B, G*N, h*w).
            feature: (B, dim, h*w).

        Returns:
            (B, G*N, dim).
        """
        is_float16 = iam_logits.dtype == torch.float16
        prob = self.activations(iam_logits.float() if is_float16 else iam_logits)
        dtype = torch.promote_types(prob.dtype, torch.float32)
        total = prob.sum(dim=-1, keepdim=True, dtype=dtype).clamp(min=1e-6)
        # Dividing after the product is the same and touches fewer values. But before the division
        # the sums over pixels are more than float16 can hold, and so is, where all of a map is near
        # 0, the gradient of what is divided.
        if is_float16:
            return (prob / total).to(feature.dtype) @ feature.transpose(1, 2)
        return (prob @ feature.transpose(1, 2)) / total

    def forward(self, feature: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """
        Args:
            feature: (B, C, h, w).

        Returns:
            class logits (B, N, K), mask kernels (B, N, D), IoU logits (B, N, 1) and the logits of
            the activation maps (B, G*N, h, w); map g*N + n is the g-th of instance n.
        """
        feature = self.inst_convs(feature)
        iam_logits = self.iam_conv(feature)
        instances = self.pool(iam_logits.flatten(2), feature.flatten(2))
        if self.fc is not None:
            instances = F.relu(self.fc(self._concatenate_groups(instances)))
        return (
            self.cls_score(instances),
            self.mask_kernel(instances),
            self.objectness(instances),
            iam_logits,
        )

    def _concatenate_groups(self, instances: Tensor) -> Tensor:
        """(B, G*N, dim) -> (B, N, G*dim)."""
        batch = instances.shape[0]
        grouped = instances.reshape(batch, self.groups, self.num_masks, -1)
        return grouped.transpose(1, 2).reshape(batch, self.num_masks, -1)


class SoftmaxInstanceBranch(InstanceBranch):
    """Activation maps normalised by a softmax over the pixels in place of sigmoid and division."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # A softmax ignores a shift of all logits: this has no effect and stays for the checkpoints.
        self.softmax_bias = nn.Parameter(torch.ones(1))

    def activations(self, iam_logits: Tensor) -> Tensor:
        """As of :class:`InstanceBranch`; the weights of one map sum to 1."""
        return (iam_logits + self.softmax_bias).softmax(dim=-1)

    def pool(self, iam_logits: Tensor, feature: Tensor) -> Tensor:
        """As of :class:`InstanceBranch`."""
        weights = self.activations(iam_logits)
        return weights @ feature.transpose(1, 2).to(weights.dtype)


class MaskBranch(nn.Module):
    """The features that an instance's kernel is multiplied with to give its mask (section 3.4)."""

    def __init__(
        self, *, in_channels: int, dim: int, num_convs: int, kernel_dim: int, norm: str = ""
    ) -> None:
        super().__init__()
        self.mask_convs = conv_stack(in_channels, dim, num_convs, norm)
        self.projection = nn.Conv2d(dim, kernel_dim, kernel_size=1)
        weight_init.c2_msra_fill(self.projection)

    def forward(self, feature: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, D, h, w)."""
        return self.projection(self.mask_convs(feature))


@SPARSE_INST_DECODER_REGISTRY.register()
class BaseIAMDecoder(nn.Module):
    """One instance activation map per instance."""

    instance_branch_type: type[InstanceBranch] = InstanceBranch

    @configurable
    def __init__(
        self,
        *,
        in_channels: int,
        num_masks: int = 100,
        num_classes: int = 80,
        kernel_dim: int = 128,
        scale_factor: float = 2.0,
        groups: int | None = None,
        inst_dim: int = 256,
        inst_convs: int = 4,
        mask_dim: int = 256,
        mask_convs: int = 4,
        norm: str = "",
        output_iam: bool = False,
    ) -> None:
        """
        Args:
            in_channels: C, of the encoder's output; both branches add two channels of coordinates.
            num_masks: N, the most instances that an image can have.
            num_classes: K.
            kernel_dim: D.
            scale_factor: the masks are upsampled bilinearly by this.
            groups: G, activation maps per instance, mixed by ``fc``; None for one map and no
                ``fc``.
            inst_dim, inst_convs: width and depth of the instance branch.
            mask_dim, mask_convs: width and depth of the mask branch.
            norm: Detectron2 name of the norm in both branches' convolutions, "" for none.
            output_iam: also return the activation maps.
        """
        super().__init__()
        self.scale_factor = scale_factor
        self.output_iam = output_iam
        self.num_classes = num_classes
        self.inst_branch = self.instance_branch_type(
            in_channels=in_channels,
            dim=inst_dim,
            num_convs=inst_convs,
            num_masks=num_masks,
            num_classes=num_classes,
            kernel_dim=kernel_dim,
            groups=groups,
            norm=norm,
        )
        self.mask_branch = MaskBranch(
            in_channels=in_channels,
            dim=mask_dim,
            num_convs=mask_convs,
            kernel_dim=kernel_dim,
            norm=norm,
        )

    @classmethod
    def from_config(cls, cfg: CfgNode, in_channels: int) -> dict[str, Any]:
        node = cfg.MODEL.SPARSE_INST.DECODER
        return {
            "in_channels": in_channels,
            "num_masks": node.NUM_MASKS,
            "num_classes": node.NUM_CLASSES,
            "kernel_dim": node.KERNEL_DIM,
            "scale_factor": node.SCALE_FACTOR,
            "inst_dim": node.INST.DIM,
            "inst_convs": node.INST.CONVS,
            "mask_dim": node.MASK.DIM,
            "mask_convs": node.MASK.CONVS,
            "norm": node.NORM,
            "output_iam": node.OUTPUT_IAM,
        }

    def forward(self, feature: Tensor) -> dict[str, Tensor]:
        """
        Args:
            feature: (B, C, h, w).

        Returns:
            ``pred_logits`` (B, N, K) class logits; ``pred_masks`` (B, N, s*h, s*w) mask logits, s
            the scale factor; ``pred_scores`` (B, N, 1) logits of the mask's IoU; with
            ``output_iam`` also ``pred_iam`` (B, G*N, h, w), logits of the activation maps.
        """
        instances, iam_logits = self._decode(feature)
        masks = F.interpolate(
            mask_logits(instances.kernels, instances.mask_features),
            scale_factor=self.scale_factor,
            mode="bilinear",
            align_corners=False,
        )
        outputs = {
            "pred_logits": instances.pred_logits,
            "pred_masks": masks,
            "pred_scores": instances.pred_scores,
        }
        if self.output_iam:
            outputs["pred_iam"] = iam_logits
        return outputs

    def instances(self, feature: Tensor) -> InstanceOutputs:
        """What :meth:`forward` computes before the masks, which are needed for few instances only.

        Args:
            feature: (B, C, h, w).
        """
        return self._decode(feature)[0]

    def _decode(self, feature: Tensor) -> tuple[InstanceOutputs, Tensor]:
        """The instances, and the logits of their activation maps (B, G*N, h, w)."""
        pred_logits, kernels, pred_scores, iam_logits = self.inst_branch(feature)
        outputs = InstanceOutputs(pred_logits, pred_scores, kernels, self.mask_branch(feature))
        return outputs, iam_logits


@SPARSE_INST_DECODER_REGISTRY.register()
class GroupIAMDecoder(BaseIAMDecoder):
    """Several activation maps per instance (G-IAM); any number of groups that divides the width."""

    @classmethod
    def from_config(cls, cfg: CfgNode, in_channels: int) -> dict[str, Any]:
        args = super().from_config(cfg, in_channels)
        return {**args, "groups": cfg.MODEL.SPARSE_INST.DECODER.GROUPS}


@SPARSE_INST_DECODER_REGISTRY.register()
class GroupIAMSoftDecoder(GroupIAMDecoder):
    """G-IAM with a softmax over the pixels."""

    instance_branch_type = SoftmaxInstanceBranch


def conv_stack(in_channels: int, channels: int, num_convs: int, norm: str = "") -> nn.Sequential:
    """``num_convs`` times (3x3 convolution, norm if any, ReLU); the first sees coordinates, too."""
    if num_convs < 1:
        raise ConfigError(
            "MODEL.SPARSE_INST.DECODER.INST.CONVS and MASK.CONVS must be at least 1, "
            f"got {num_convs}"
        )
    layers: list[nn.Module] = []
    for index in range(num_convs):
        conv_type = Conv2d if index else CoordinateConv2d
        conv = conv_type(
            channels if index else 2 + in_channels,
            channels,
            kernel_size=3,
            padding=1,
            bias=not norm,
            norm=get_norm(norm, channels),
        )
        weight_init.c2_msra_fill(conv)
        layers += [conv, nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)
