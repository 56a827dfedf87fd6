"""Convolutions over concatenated maps, without the concatenation.

A convolution is linear in its input channels: over a concatenation it equals the sum of
convolutions over the parts, each with its share of the kernel. So every part can be convolved where
that is cheapest. Up to rounding, results and gradients are those of the concatenation.

Shape shorthand: B images, C channels of the features, O output channels, (h, w) a map's size.
"""

from collections.abc import Sequence

import torch
from detectron2.layers import Conv2d
from torch import Tensor, nn
from torch.nn import functional as F


def coordinates(size: torch.Size, like: Tensor) -> Tensor:
    """x and y of each pixel, (1, 2, h, w), linear from -1 to 1 over the map.

    A map one pixel wide or high gets the coordinate -1.

    Args:
        size: (h, w).
        like: has the dtype and device that are wanted.
    """
    height, width = size
    x = _from_minus_one(width, like)
    y = _from_minus_one(height, like)[:, None]
    return torch.stack([x.expand(height, width), y.expand(height, width)])[None]


def _from_minus_one(length: int, like: Tensor) -> Tensor:
    """``linspace(-1, 1, length)``, which an exported graph would have for one length only."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    position = torch.arange(length, device=like.device, dtype=dtype)
    return (position * (2 / position[-1:].clamp(min=1)) - 1).to(like.dtype)


class CoordinateConv2d(Conv2d):
    """Convolution of [x, y, features], the coordinates being those of :func:`coordinates`.

    They are the same for all images: their part is computed once for the batch, and the features
    have a number of channels that fits vector units (256 in place of 258).
    """

    def forward(self, feature: Tensor) -> Tensor:
        """(B, in_channels - 2, h, w) -> (B, O, h', w')."""
        result = _convolve(self, feature, self.weight[:, 2:], self.bias)
        located = coordinates(feature.shape[-2:], feature)
        result += _convolve(self, located, self.weight[:, :2])
        return _finish(self, result)

    def for_inference(self) -> nn.Module:
        """The same function for weights that no longer change."""
        return FixedCoordinateConv2d(self)


class FixedCoordinateConv2d(Conv2d):
    """A :class:`CoordinateConv2d` with fixed weights: on the CPU it keeps what it has computed of
    the coordinates, for the size that it has seen last."""

    def __init__(self, source: CoordinateConv2d) -> None:
        """``source``: whose weights are copied, and whose norm and activation are taken over."""
        with torch.device("meta"):  # the weights made here are never used
            super().__init__(
                source.in_channels - 2,
                source.out_channels,
                source.kernel_size,
                stride=source.stride,
                padding=source.padding,
                dilation=source.dilation,
                norm=source.norm,
                activation=source.activation,
            )
        coordinate_weight, weight = source.weight.detach().split([2, self.in_channels], dim=1)
        self.weight = nn.Parameter(weight.clone(), requires_grad=False)
        self.coordinate_weight = nn.Parameter(coordinate_weight.clone(), requires_grad=False)
        self.bias = source.bias
        self._kept: tuple[object, Tensor] | None = None

    def forward(self, feature: Tensor) -> Tensor:
        """(B, in_channels, h, w) -> (B, O, h', w')."""
        result = _convolve(self, feature, self.weight, self.bias)
        result += self._coordinate_part(feature.shape[-2:], result)
        return _finish(self, result)

    def _coordinate_part(self, size: torch.Size, like: Tensor) -> Tensor:
        # Recordings for GPUs, and compiled or exported code, must not depend on what was kept.
        if like.is_cuda or torch.compiler.is_compiling() or torch.jit.is_tracing():
            return _convolve(self, coordinates(size, like), self.coordinate_weight)
        key = (size, like.dtype, like.device)
        kept = self._kept
        if kept is None or kept[0] != key:
            part = _convolve(self, coordinates(size, like), self.coordinate_weight)
            self._kept = kept = (key, part)
        return kept[1]


def convolve_stretched(conv: Conv2d, maps: Sequence[Tensor], size: torch.Size) -> Tensor:
    """A 1x1 convolution over the concatenation of maps that were stretched to one size before.

    It commutes with the stretching, which weighs all channels alike, so that each map is convolved
    at its own size, the smaller ones for next to nothing.

    Args:
        conv: a 1x1 convolution, with its norm and activation if it has any.
        maps: (B, C_i, h_i, w_i), in the order of the convolution's input channels.
        size: (h, w).

    Returns:
        (B, O, h, w).
    """
    weights = conv.weight.split([part.shape[1] for part in maps], dim=1)
    # The bias goes with one of them, because the weights of bilinear stretching sum to 1.
    biases = [conv.bias, *(None for _ in maps[1:])]
    parts = map(F.conv2d, maps, weights, biases)
    return _finish(conv, add_stretched(list(parts), size))


def add_stretched(maps: Sequence[Tensor], size: torch.Size) -> Tensor:
    """The sum (B, C, h, w) of maps (B, C, h_i, w_i), stretched to (h, w), which is written into the
    first map if that has the size."""
    result = stretch(maps[0], size)
    for part in maps[1:]:
        result += stretch(part, size)
    return result


def stretch(feature: Tensor, size: torch.Size) -> Tensor:
    """(B, C, h, w) -> (B, C, *size), bilinear; a map of that size is returned as it is."""
    # An exported graph takes any size: what is equal in the example is not compared.
    exporting = torch.compiler.is_exporting() or torch.jit.is_tracing()
    if not exporting and feature.shape[-2:] == size:
        return feature
    return F.interpolate(feature, size=size, mode="bilinear", align_corners=False)


def _convolve(conv: Conv2d, feature: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A convolution's strides, padding and dilation with another weight."""
    return F.conv2d(feature, weight, bias, conv.stride, conv.padding, conv.dilation)


def _finish(conv: Conv2d, result: Tensor) -> Tensor:
    """The norm and the activation that belong to a convolution."""
    if conv.norm is not None:
        result = conv.norm(result)
    return result if conv.activation is None else conv.activation(result)
