"""Padding by mirroring, which DeepMask's convolutions do in place of padding with zeros.

A window's features must not show where the image or the patch ends; mirrored surroundings look like
any others. The modes, for a row ``abcd`` padded by 3:

* ``symmetric``: ``cba|abcd|dcb``, the edge pixel is repeated (FAIR's code)
* ``reflect``: ``dcb|abcd|cba``, it is not (the PyTorch port)
* ``zeros``: ``000|abcd|000``
"""

from __future__ import annotations

from typing import cast

import torch
from detectron2.layers import Conv2d
from torch import Tensor, nn
from torch.nn import functional as F

from instseg_d2.errors import ConfigError, DataError

from .options import choose

PADDING_KEY = "MODEL.SHARP_MASK.PADDING"
#: Each mode, and by how many cells a map must be longer than its padding.
PADDING_MODES = {"symmetric": 0, "reflect": 1, "zeros": None}


def pad(x: Tensor, amount: int | tuple[int, int], mode: str) -> Tensor:
    """(B, C, h, w) -> (B, C, h + 2 * vertical, w + 2 * horizontal).

    Args:
        amount: cells on each side; a pair is (vertical, horizontal).
        mode: one of :data:`PADDING_MODES`.

    Raises:
        ConfigError: there is no such mode.
        DataError: ``x`` is too small to be mirrored that far.
    """
    surplus = choose(PADDING_MODES, mode, PADDING_KEY)
    vertical, horizontal = (amount, amount) if isinstance(amount, int) else amount
    sides = (horizontal, horizontal, vertical, vertical)
    if surplus is None:
        return F.pad(x, sides)
    height, width = x.shape[-2:]
    for length, by in ((height, vertical), (width, horizontal)):
        if by and length < by + surplus:
            raise DataError(
                f"a map of {height} x {width} cells is too small to be padded by "
                f"{vertical} x {horizontal} ({PADDING_KEY} {mode}); give a larger image or, of "
                "patches, a larger MODEL.SHARP_MASK.WINDOW_SIZE"
            )
    if mode == "reflect":
        return F.pad(x, sides, mode="reflect")
    if max(sides) <= 1:  # the same, and faster
        return F.pad(x, sides, mode="replicate")
    return _mirror(_mirror(x, vertical, -2), horizontal, -1)


def check_cells(cells: int, mode: str) -> None:
    """See that maps of a window's cells can be padded by one cell.

    Raises:
        ConfigError: there is no such mode, or they cannot.
    """
    surplus = choose(PADDING_MODES, mode, PADDING_KEY)
    if surplus is not None and cells < 1 + surplus:
        raise ConfigError(
            f"a window has {cells} x {cells} cells in the trunk's feature, too few to be padded "
            f"with {PADDING_KEY} {mode}: give a larger MODEL.SHARP_MASK.WINDOW_SIZE"
        )


def _mirror(x: Tensor, amount: int, dim: int) -> Tensor:
    before = x.narrow(dim, 0, amount).flip(dim)
    after = x.narrow(dim, x.shape[dim] - amount, amount).flip(dim)
    return torch.cat([before, x, after], dim)


class MirroredConv2d(Conv2d):
    """Detectron2's convolution (with its norm and activation, if any) that pads by a mode."""

    def __init__(self, source: nn.Conv2d, padding_mode: str) -> None:
        """
        Args:
            source: whose parameters and submodules are taken over, not copied.
            padding_mode: one of :data:`PADDING_MODES`.
        """
        if isinstance(source.padding, str):
            raise ValueError(f"a padding in numbers is wanted, got {source.padding!r}")
        with torch.device("meta"):  # the weights made here are never used
            super().__init__(
                source.in_channels,
                source.out_channels,
                cast(tuple[int, int], source.kernel_size),
                stride=cast(tuple[int, int], source.stride),
                padding=cast(tuple[int, int], source.padding),
                dilation=cast(tuple[int, int], source.dilation),
                groups=source.groups,
                bias=source.bias is not None,
                norm=getattr(source, "norm", None),
                activation=getattr(source, "activation", None),
            )
        self.weight, self.bias = source.weight, source.bias
        self.mirroring = padding_mode

    def forward(self, x: Tensor) -> Tensor:
        x = pad(x, self.padding, self.mirroring)
        x = F.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)
        if self.norm is not None:
            x = self.norm(x)
        if self.activation is not None:
            x = self.activation(x)
        return x

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, mirroring={self.mirroring}"


def set_padding_mode(module: nn.Module, mode: str) -> None:
    """Have every convolution within ``module`` that pads do so by ``mode``, in place.

    The convolutions may be torch's or Detectron2's. Names and values of parameters stay.

    Raises:
        ConfigError: there is no such mode.
    """
    choose(PADDING_MODES, mode, PADDING_KEY)
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, MirroredConv2d):
                child.mirroring = mode
            elif isinstance(child, nn.Conv2d) and mode != "zeros" and any(child.padding):
                parent.add_module(name, MirroredConv2d(child, mode))
