"""Deformable convolutions without Detectron2's compiled extension.

Deformable Convolutional Networks (arXiv 1703.06211) samples the input of a convolution at learned
offsets from the regular grid; version 2 (arXiv 1811.11168) also scales each sample by a learned
modulation. Both are operators of torchvision, on CPUs and GPUs, forward and backward; the classes
here give them Detectron2's interface, so that a Detectron2 without its compiled operators can use
them as well.

Shape shorthand: B images, kernel (kH, kW), G deformable groups, output (h, w). An offset has
2 * G * kH * kW channels: for each group and each kernel position y first, then x, in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import detectron2.layers
import detectron2.layers.deform_conv
import detectron2.modeling.backbone.resnet
import torch
from torch import Tensor, nn
from torch.nn.modules.utils import _pair
from torchvision.ops import deform_conv2d


class DeformConv(nn.Module):
    """Deformable convolution, version 1, without bias; Detectron2's ``DeformConv``."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        deformable_groups: int = 1,
        bias: bool = False,
        norm: nn.Module | None = None,
        activation: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """
        Args:
            deformable_groups: input channels come in so many groups, each with offsets of its own.
            norm, activation: applied to the result.

        Raises:
            ValueError: channels that the groups do not divide.
        """
        super().__init__()
        for name, number in (("groups", groups), ("deformable_groups", deformable_groups)):
            if in_channels % number:
                raise ValueError(f"in_channels {in_channels} is not divisible by {name} {number}")
        if out_channels % groups:
            raise ValueError(f"out_channels {out_channels} is not divisible by groups {groups}")
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size = _pair(kernel_size)
        self.stride, self.padding, self.dilation = _pair(stride), _pair(padding), _pair(dilation)
        self.groups, self.deformable_groups = groups, deformable_groups
        self.norm, self.activation = norm, activation
        self.weight = nn.Parameter(
            torch.empty(out_channels, in_channels // groups, *self.kernel_size)
        )
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        nn.init.kaiming_uniform_(self.weight, nonlinearity="relu")

    def forward(self, x: Tensor, offset: Tensor) -> Tensor:
        """
        Args:
            x: (B, in_channels, H, W).
            offset: (B, 2 * G * kH * kW, h, w).

        Returns:
            (B, out_channels, h, w), of the dtype of ``x``.
        """
        return self._convolve(x, offset, None)

    def _convolve(self, x: Tensor, offset: Tensor, mask: Tensor | None) -> Tensor:
        expected = 2 * self.deformable_groups * self.kernel_size[0] * self.kernel_size[1]
        if offset.shape[1] != expected:
            raise ValueError(f"offset has {offset.shape[1]} channels, expected {expected}")
        # The sampling positions need float32: half precision cannot tell pixels beyond 2048 apart.
        dtype = torch.promote_types(x.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            result = deform_conv2d(
                x.to(dtype),
                offset.to(dtype),
                self.weight.to(dtype),
                None if self.bias is None else self.bias.to(dtype),
                self.stride,
                self.padding,
                self.dilation,
                None if mask is None else mask.to(dtype),
            ).to(x.dtype)
        if self.norm is not None:
            result = self.norm(result)
        return result if self.activation is None else self.activation(result)

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, padding={self.padding}, dilation={self.dilation}, "
            f"groups={self.groups}, deformable_groups={self.deformable_groups}, "
            f"bias={self.bias is not None}"
        )


class ModulatedDeformConv(DeformConv):
    """Deformable convolution, version 2; Detectron2's ``ModulatedDeformConv``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As :class:`DeformConv`, but with a bias unless ``bias=False``."""
        super().__init__(*args, **{"bias": True, **kwargs})

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        """
        Args:
            x: (B, in_channels, H, W).
            offset: (B, 2 * G * kH * kW, h, w).
            mask: (B, G * kH * kW, h, w), the modulation, usually 0..1.

        Returns:
            (B, out_channels, h, w), of the dtype of ``x``.
        """
        return self._convolve(x, offset, mask)


class OffsetConv(nn.Conv2d):
    """Predicts the offsets (and the modulation) that a deformable convolution needs.

    Starts at zero, so that the deformable convolution starts as a regular one (version 2: as half
    of one).
    """

    def __init__(
        self,
        in_channels: int,
        kernel_size: int = 3,
        *,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 1,
        dilation: int | Sequence[int] = 1,
        deformable_groups: int = 1,
        modulated: bool = False,
    ) -> None:
        self.num_positions = deformable_groups * kernel_size**2
        super().__init__(
            in_channels,
            self.num_positions * (3 if modulated else 2),
            kernel_size,
            stride=_pair(stride),
            padding=_pair(padding),
            dilation=_pair(dilation),
        )
        self.modulated = modulated

    def reset_parameters(self) -> None:
        """Set weight and bias to zero."""
        nn.init.zeros_(self.weight)
        assert self.bias is not None
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """(B, C, H, W) -> (offset,), or (offset, mask): what the deformable convolution takes."""
        result = super().forward(x)
        if not self.modulated:
            return (result,)
        offset, mask = result.split([2 * self.num_positions, self.num_positions], dim=1)
        return offset, mask.sigmoid()


def replace_detectron2_deform_conv() -> None:
    """Let Detectron2's own ResNet (``RESNETS.DEFORM_ON_PER_STAGE``) build the classes of this file.

    Without its compiled operators Detectron2 has no deformable convolution at all; with them, none
    on the CPU for version 2. Calling this more than once does no harm.
    """
    for module in (
        detectron2.layers,
        detectron2.layers.deform_conv,
        detectron2.modeling.backbone.resnet,
    ):
        module.DeformConv = DeformConv
        module.ModulatedDeformConv = ModulatedDeformConv
