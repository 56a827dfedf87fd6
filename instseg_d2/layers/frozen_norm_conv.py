"""Convolutions that a frozen batch norm follows, computed as one step, also while they are trained.

A frozen batch norm is y = s * x + t for each channel. After a convolution with weight w this is a
convolution with weight s * w and bias t: the same function of w, and so the same gradient, without
a pass over the map forward and another one backward.
"""

from __future__ import annotations

from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import Tensor, nn
from torch.nn import functional as F


class FrozenNormConv2d(Conv2d):
    """Detectron2's convolution with a ``FrozenBatchNorm2d`` and perhaps an activation.

    Its parameters and buffers have the names and values that they have there.
    """

    @classmethod
    def of(cls, conv: Conv2d) -> FrozenNormConv2d:
        """The same convolution, with the same tensors."""
        joined = cls(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            stride=conv.stride,
            padding=conv.padding,
            dilation=conv.dilation,
            groups=conv.groups,
            bias=conv.bias is not None,
            device="meta",  # its own weight is dropped at once
            norm=conv.norm,
            activation=conv.activation,
        )
        joined.weight, joined.bias = conv.weight, conv.bias
        return joined.train(conv.training)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in channels, H, W) -> (B, out channels, H', W'), norm and activation included."""
        norm = self.norm
        if norm is None:  # it has become part of the weight: fold_norms
            y: Tensor = super().forward(x)
            return y
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        shift = norm.bias - norm.running_mean * scale
        if self.bias is not None:
            shift = shift + self.bias * scale
        weight = self.weight * scale.reshape(-1, 1, 1, 1)
        x = F.conv2d(x, weight, shift, self.stride, self.padding, self.dilation, self.groups)
        return x if self.activation is None else self.activation(x)


def join_frozen_norms(model: nn.Module) -> int:
    """Replace every convolution of Detectron2's that a frozen batch norm follows, in place.

    Returns:
        how many were replaced.
    """
    replaced: dict[int, FrozenNormConv2d] = {}  # one that stands in two places stays one
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):  # named_children() leaves out repetitions
            if (
                child is not None
                and type(child) is Conv2d
                and type(child.norm) is FrozenBatchNorm2d
            ):
                parent.add_module(name, replaced.setdefault(id(child), FrozenNormConv2d.of(child)))
    return len(replaced)
