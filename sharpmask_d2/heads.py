"""The heads of DeepMask: what of a window is a mask, and how likely it shows one whole object.

Every layer is a convolution, so that one head reads a window and a whole image alike: a "fully
connected" layer over a window's features is a convolution with a kernel of the window's size.

Shape shorthand: B images, C channels of the trunk's feature, F after the reduction, (h, w) the
feature's size, c the cells along a window's side (W / stride), D ``encoding_dim``, m ``mask_size``;
(h', w') = (h - c + 1, w - c + 1), one cell per window.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn
from torch.nn import functional as F

from instseg_d2.errors import ConfigError

from .options import choose, require_at_least

#: Channels of the mask branch's 1x1 convolution and of the score branch's first layer in the
#: designs "original" and "A" (arXiv 1506.06204, section 3.1).
ORIGINAL_WIDTH = 512
NODE = "MODEL.SHARP_MASK"
HEAD_KEY = f"{NODE}.HEAD.NAME"


class HeadOutput(NamedTuple):
    """For every window of an image.

    Attributes:
        encoding: (B, D, h', w'), from which the window's mask is made.
        score_logits: (B, 1, h', w'), of the probability that an object is centred in it and fits.
    """

    encoding: Tensor
    score_logits: Tensor


class Head(nn.Module):
    """A DeepMask head; the designs share more and more between mask and score.

    * ``original`` (DeepMask's): mask: 1x1 convolution to 512, ReLU, fully connected to D; score:
      2x2 max-pooling, fully connected to 512, ReLU. There is no reduction.
    * ``A``: both branches of ``original`` start from one 1x1 convolution to F and ReLU.
    * ``B``: that reduction, then in each branch only a fully connected layer to D.
    * ``C`` (FAIR's code, the default): that layer is shared as well.

    Then, in all of them: mask: fully connected to m * m; score: dropout, fully connected to
    ``score_dim``, ReLU, dropout, fully connected to 1. No nonlinearity follows the layers to D.

    SharpMask's paper (arXiv 1603.08695, section 4.2) names A and B without their widths: these two
    are our choice. Weights start as PyTorch's defaults, which are Torch7's and so FAIR's.
    """

    @configurable
    def __init__(
        self,
        *,
        in_channels: int,
        cells: int,
        design: str = "C",
        channels: int = 128,
        encoding_dim: int = 512,
        score_dim: int = 1024,
        mask_size: int = 56,
        dropout: float = 0.5,
    ) -> None:
        """
        Args:
            in_channels: C.
            cells: c.
            design: a key of :data:`DESIGNS`.
            channels: F; 0: no reduction.
            encoding_dim, score_dim, mask_size: D; width of the score branch; m.
            dropout: probability, in the score branch.

        Raises:
            ConfigError: an unknown design, a reduction in one that has none, or a number that
                cannot be.
        """
        super().__init__()
        make_encoders = choose(DESIGNS, design, HEAD_KEY)
        require_at_least(0, channels, f"{NODE}.TRUNK.CHANNELS")
        require_at_least(1, encoding_dim, f"{NODE}.HEAD.ENCODING_DIM")
        require_at_least(1, score_dim, f"{NODE}.HEAD.SCORE_DIM")
        require_at_least(1, mask_size, f"{NODE}.HEAD.MASK_SIZE")
        if not 0 <= dropout <= 1:
            raise ConfigError(f"{NODE}.HEAD.DROPOUT is {dropout}, but must be from 0 to 1")
        if design == "original" and channels:
            raise ConfigError(
                f"{HEAD_KEY} original has no reduction shared by mask and score: give "
                f"{NODE}.TRUNK.CHANNELS 0 (it is {channels}), or another design"
            )
        self.design = design
        self.cells = cells
        self.encoding_dim = encoding_dim
        self.mask_size = mask_size
        self.reduce = nn.Sequential()
        if channels:
            self.reduce = nn.Sequential(nn.Conv2d(in_channels, channels, 1), nn.ReLU(inplace=True))
        self.encode, self.encode_score, width = make_encoders(
            channels or in_channels, cells, encoding_dim
        )
        self.mask = nn.Conv2d(encoding_dim, mask_size**2, 1)
        self.score = nn.Sequential(
            nn.Dropout(dropout),
            nn.Conv2d(width, score_dim, 1),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Conv2d(score_dim, 1, 1),
        )

    @classmethod
    def from_config(cls, cfg: CfgNode, in_channels: int, cells: int) -> dict[str, Any]:
        node = cfg.MODEL.SHARP_MASK
        return {
            "in_channels": in_channels,
            "cells": cells,
            "design": node.HEAD.NAME,
            "channels": node.TRUNK.CHANNELS,
            "encoding_dim": node.HEAD.ENCODING_DIM,
            "score_dim": node.HEAD.SCORE_DIM,
            "mask_size": node.HEAD.MASK_SIZE,
            "dropout": node.HEAD.DROPOUT,
        }

    def forward(self, feature: Tensor) -> HeadOutput:
        """(B, C, h, w) -> the answer for each of its windows; h and w are at least c."""
        feature = self.reduce(feature)
        encoding = self.encode(feature)
        score_encoding = encoding if self.encode_score is None else self.encode_score(feature)
        return HeadOutput(encoding, self.score(score_encoding))

    def masks(self, encodings: Tensor) -> Tensor:
        """Encodings of n windows (n, D) -> their mask logits (n, m, m)."""
        logits = self.mask(encodings[:, :, None, None])
        return logits.reshape(-1, self.mask_size, self.mask_size)

    def in_words(self) -> str:
        """The design and the sizes that its weights depend on."""
        return (
            f"head {self.design}, windows of {self.cells} cells a side, encodings of "
            f"{self.encoding_dim}, coarse masks of {self.mask_size} x {self.mask_size}"
        )


class PooledWindow(nn.Module):
    """2x2 max-pooling, then a fully connected layer over the window, for every window of a map.

    Within one window the pooling has stride 2. Windows start at every cell, so over the whole map
    it has stride 1, and the layer reads every second cell.
    """

    def __init__(self, in_channels: int, out_channels: int, cells: int) -> None:
        super().__init__()
        if cells < 2:
            raise ConfigError(
                f"{HEAD_KEY}: this design pools 2x2 cells, but a window (MODEL.SHARP_MASK."
                "WINDOW_SIZE) has only one; give a larger window or design B or C"
            )
        self.cells = cells
        self.fc = nn.Conv2d(in_channels, out_channels, cells // 2, dilation=2)

    def forward(self, feature: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, out_channels, h', w')."""
        rows, columns = (length - self.cells + 1 for length in feature.shape[-2:])
        # With an odd number of cells the pooling leaves the window's last row and column out, and
        # so there is room for one window too many.
        return self.fc(F.max_pool2d(feature, 2, stride=1))[..., :rows, :columns]


def resize_masks(logits: Tensor, size: int) -> Tensor:
    """Coarse mask logits (n, m, m) -> (n, size, size), bilinearly and corner to corner, as FAIR.

    In float32 at least: a mean of float16's largest values may be rounded to infinity.
    """
    wide = logits[:, None].to(torch.promote_types(logits.dtype, torch.float32))
    return F.interpolate(wide, (size, size), mode="bilinear", align_corners=True)[:, 0]


def _separate_branches(
    channels: int, cells: int, dim: int
) -> tuple[nn.Module, nn.Module | None, int]:
    encode = nn.Sequential(
        nn.Conv2d(channels, ORIGINAL_WIDTH, 1),
        nn.ReLU(inplace=True),
        nn.Conv2d(ORIGINAL_WIDTH, dim, cells),
    )
    encode_score = nn.Sequential(
        PooledWindow(channels, ORIGINAL_WIDTH, cells), nn.ReLU(inplace=True)
    )
    return encode, encode_score, ORIGINAL_WIDTH


def _separate_encodings(
    channels: int, cells: int, dim: int
) -> tuple[nn.Module, nn.Module | None, int]:
    return nn.Conv2d(channels, dim, cells), nn.Conv2d(channels, dim, cells), dim


def _shared_encoding(
    channels: int, cells: int, dim: int
) -> tuple[nn.Module, nn.Module | None, int]:
    return nn.Conv2d(channels, dim, cells), None, dim


#: (F, c, D) -> what encodes the mask, what encodes the score (None: the same), its channels.
DESIGNS: dict[str, Callable[[int, int, int], tuple[nn.Module, nn.Module | None, int]]] = {
    "original": _separate_branches,
    "A": _separate_branches,
    "B": _separate_encodings,
    "C": _shared_encoding,
}
