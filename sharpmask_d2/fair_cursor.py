"""Reading the layers of one of FAIR's networks from first to last, with their weights checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NoReturn

import torch
from torch import Tensor

from instseg_d2.errors import WeightsError

from .fair_layers import PADDINGS, Layer, in_words

NORM_EPSILON = 1e-5
"""What the norms here add to the variance."""

SMALLEST = 1e-5
"""What FAIR's Threshold gives in place of zeros (1e-6) and may differ from them by."""


@dataclass(frozen=True)
class Conv:
    """A convolution without its norm.

    Attributes:
        weight: (out, in, k, k).
        bias: (out,), if any.
        stride: in both directions.
        padding: mode of :mod:`.padding`; "" for none.
    """

    weight: Tensor
    bias: Tensor | None
    stride: int
    padding: str

    @property
    def out_channels(self) -> int:
        return self.weight.shape[0]

    @property
    def kernel(self) -> int:
        return self.weight.shape[-1]


@dataclass
class Converted:
    """What has been read of a model.

    Attributes:
        state: under the names here.
        paddings: how each convolution that pads does so, by name.
    """

    state: dict[str, Tensor] = field(default_factory=dict)
    paddings: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, weight: Tensor, bias: Tensor) -> None:
        """Add a layer."""
        self.state[f"{name}.weight"] = weight
        self.state[f"{name}.bias"] = bias

    def add_conv(self, name: str, conv: Conv, norm: dict[str, Tensor] | None = None) -> None:
        """Add a convolution with the norm after it, or with a bias."""
        if norm is None:
            bias = torch.zeros(conv.out_channels) if conv.bias is None else conv.bias
            self.add(name, conv.weight, bias)
        else:
            self.state[f"{name}.weight"] = conv.weight
            self.state.update({f"{name}.norm.{kind}": value for kind, value in norm.items()})
        if conv.padding:
            self.paddings[name] = conv.padding


class Cursor:
    """Reads layers from first to last.

    Its methods raise :class:`WeightsError` where another layer comes than must, or one whose
    weights or settings do not fit.
    """

    def __init__(self, layers: Sequence[Layer], where: str) -> None:
        self.layers = layers
        self.where = where
        self.position = 0

    def next_kind(self, ahead: int = 0) -> str:
        """Of the layer to come; "end" after the last."""
        place = self.position + ahead
        return self.layers[place].kind if place < len(self.layers) else "end"

    def take(self, *kinds: str) -> Layer:
        """The next layer, which must be of one of these kinds."""
        if self.next_kind() not in kinds:
            self._refuse_next(f"expected here: {' or '.join(kinds)}")
        self.position += 1
        return self.layers[self.position - 1]

    def end(self) -> None:
        """See that no layer is left."""
        if self.next_kind() != "end":
            self._refuse_next("nothing more is expected here")

    def relu(self) -> None:
        layer = self.take("ReLU")
        for name in ("threshold", "val"):
            value = layer.module.fields.get(name, 0.0)
            if not isinstance(value, float | int) or not abs(value) <= SMALLEST:
                layer.refuse(f"its field {name} must be 0, but is {in_words(value)}")

    def crop(self) -> int:
        """Cells on each side; 0 if no crop comes."""
        if self.next_kind() != "crop":
            return 0
        return -self.take("crop").number("pad_l")

    def conv(self, kernel: int, in_channels: int, stride: int | None = 1) -> Conv:
        """A convolution that keeps the size of its input, but for the stride.

        Args:
            stride: None: 1 or 2.
        """
        padded = self.take(*PADDINGS) if self.next_kind() in PADDINGS else None
        layer = self.take("convolution")
        weight, bias = _conv_weights(layer, kernel, in_channels)
        found = layer.same("dW", "dH", default=1)
        if found not in ((1, 2) if stride is None else (stride,)):
            layer.refuse(f"its stride must be {stride or '1 or 2'}, but is {found}")
        own = layer.same("padW", "padH", default=0)
        around = padded.number("pad_l") if padded else 0
        if sorted((own, around)) != [0, kernel // 2]:
            layer.refuse(
                f"it must be padded by {kernel // 2}, before it or in it, but is by {around} "
                f"before it and {own} in it"
            )
        padding = padded.kind if padded else "zeros" if own else ""
        return Conv(weight, bias, found, padding)

    def norm(self, conv: Conv) -> dict[str, Tensor]:
        """The norm or fixed affine map after a convolution, whose bias becomes part of it.

        Returns:
            what a frozen norm here has: ``weight``, ``bias``, ``running_mean``, ``running_var``.
        """
        layer = self.take("affine", "norm")
        zeros = torch.zeros(conv.out_channels)
        bias = zeros if conv.bias is None else conv.bias
        if layer.kind == "affine":
            scale, shift = (_per_channel(layer, name, conv.out_channels) for name in "ab")
            # With what norms add to it this variance is 1: scale and shift stay as they are.
            variance = torch.ones_like(scale) - NORM_EPSILON
            return _norm(scale, shift + scale * bias, zeros, variance)
        mean, variance = (
            _per_channel(layer, f"running_{name}", conv.out_channels) for name in ("mean", "var")
        )
        epsilon = layer.module.fields.get("eps", NORM_EPSILON)
        if not isinstance(epsilon, float) or not 0 <= epsilon < 1:
            layer.refuse(f"its field eps must be a small number, but is {in_words(epsilon)}")
        scale, shift = torch.ones_like(mean), torch.zeros_like(mean)
        if layer.find_tensor("weight") is not None:
            scale, shift = (
                _per_channel(layer, name, conv.out_channels) for name in ("weight", "bias")
            )
        return _norm(scale, shift, mean - bias, variance + (epsilon - NORM_EPSILON))

    def full(self, in_features: int) -> tuple[Tensor, Tensor]:
        """A fully connected layer on vectors, which may be stored as a 1x1 convolution.

        Returns:
            weight (out, in_features) and bias (out,).
        """
        weight, bias = self.window(in_features)
        if weight.shape[-1] != 1:
            self.layers[self.position - 1].refuse(f"it must read {in_features} numbers")
        return weight.flatten(1), bias

    def window(self, channels: int) -> tuple[Tensor, Tensor]:
        """A fully connected layer over a square of cells, which may be stored as a convolution.

        Returns:
            weight (out, channels, c, c) and bias (out,).
        """
        layer = self.take("linear", "convolution")
        if layer.kind == "linear":
            weight = layer.tensor("weight", (-1, -1))
            cells = math.isqrt(weight.shape[1] // channels)
            if not cells or weight.shape[1] != channels * cells**2:
                layer.refuse(
                    f"it reads {weight.shape[1]} numbers, which is no square of {channels} channels"
                )
            weight = weight.reshape(len(weight), channels, cells, cells)
            return weight, layer.tensor("bias", (len(weight),))
        if layer.same("padW", "padH", default=0) or layer.same("dW", "dH", default=1) != 1:
            layer.refuse("it must have stride 1 and no padding, as a fully connected layer")
        weight, bias = _conv_weights(layer, None, channels)
        return weight, torch.zeros(len(weight)) if bias is None else bias

    def _refuse_next(self, text: str) -> NoReturn:
        if self.next_kind() == "end":
            raise WeightsError(f"{self.where} ends too early; {text}")
        self.layers[self.position].refuse(text)


def _conv_weights(
    layer: Layer, kernel: int | None, in_channels: int
) -> tuple[Tensor, Tensor | None]:
    """Weight (out, in, k, k), also of a file that has it as (out, in * k * k), and bias."""
    if layer.number("groups", 1) != 1:
        layer.refuse("it has several groups, which the convolutions here have not")
    weight = layer.tensor("weight", (-1, -1, -1, -1), (-1, -1))
    size = kernel or (weight.shape[-1] if weight.dim() == 4 else layer.number("kW"))
    out = len(weight)
    weight = layer.tensor("weight", (out, in_channels, size, size), (out, in_channels * size**2))
    known = {"nInputPlane": in_channels, "nOutputPlane": out, "kW": size, "kH": size}
    for name, value in known.items():
        if layer.number(name, value) != value:
            layer.refuse(f"its field {name} is {layer.number(name)}, its weight says {value}")
    bias = None if layer.find_tensor("bias") is None else layer.tensor("bias", (out,))
    return weight.reshape(out, in_channels, size, size), bias


def _per_channel(layer: Layer, name: str, channels: int) -> Tensor:
    """A tensor of one number per channel, whatever its dimensions: (channels,)."""
    tensor = layer.tensor(name, (channels,), (1, channels, 1, 1))
    return tensor.flatten()


def _norm(scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor) -> dict[str, Tensor]:
    return {"weight": scale, "bias": shift, "running_mean": mean, "running_var": variance}
