"""The "skip" network that SharpMask is compared with (arXiv 1603.08695, figure 1b)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn
from torch.nn import functional as F

from .heads import resize_masks
from .padding import check_cells, set_padding_mode
from .refinement import (
    REFINEMENT_REGISTRY,
    channel_schedule,
    check_hidden,
    conv3x3,
    skip_layers,
)


@REFINEMENT_REGISTRY.register()
class Multiscale(nn.Module):
    """The baseline of figure 1b: the coarse mask and a prediction from every skip, averaged.

    Each skip feature predicts the window's mask by its horizontal layers alone, the last of which
    has one channel; there are no vertical connections and nothing is learned beside those layers.
    """

    needs_coarse_masks = True

    @configurable
    def __init__(
        self,
        *,
        skip_channels: Sequence[int],
        cells: int,
        window_size: int,
        layout: str = "released",
        schedule: str = "halving",
        channels: int = 32,
        hidden_channels: Sequence[int] = (64, 64, 64, 32),
        padding: str = "symmetric",
    ) -> None:
        """Arguments as of :class:`Refinement`; ``window_size`` is W.

        In the layout ``paper`` the schedule and its channels have no effect.
        """
        super().__init__()
        check_cells(cells, padding)
        self.window_size = window_size
        hidden_channels = check_hidden(hidden_channels, skip_channels)
        widths = hidden_channels
        if layout != "paper":  # the last level is halved no further
            widths = channel_schedule(channels, len(skip_channels) - 1, schedule)
        self.levels = nn.ModuleList()
        for feature, hidden, state in zip(skip_channels, hidden_channels, widths, strict=True):
            layers, out = skip_layers(feature, hidden, state, layout)
            self.levels.append(nn.Sequential(*layers, conv3x3(out, 1)))
        set_padding_mode(self, padding)

    @classmethod
    def from_config(cls, cfg: CfgNode, skip_channels: Sequence[int], cells: int) -> dict[str, Any]:
        node = cfg.MODEL.SHARP_MASK.REFINEMENT
        return {
            "skip_channels": skip_channels,
            "cells": cells,
            "window_size": cfg.MODEL.SHARP_MASK.WINDOW_SIZE,
            "layout": node.LAYOUT,
            "schedule": node.SCHEDULE,
            "channels": node.CHANNELS,
            "hidden_channels": node.HORIZONTAL_CHANNELS,
            "padding": cfg.MODEL.SHARP_MASK.PADDING,
        }

    def skips(self, features: Iterable[Tensor]) -> list[Tensor]:
        """Per skip feature (B, F_i, h_i, w_i) the logits (B, 1, h_i, w_i)."""
        return [level(x) for level, x in zip(self.levels, features, strict=True)]

    def forward(
        self, encodings: Tensor, skip_windows: Sequence[Tensor], coarse_masks: Tensor
    ) -> Tensor:
        """
        Args:
            encodings: not used here; the coarse masks are made from them.
            skip_windows: what :meth:`skips` gives, cut to the windows.
            coarse_masks: (n, m, m) mask logits of the head.

        Returns:
            mask logits (n, W, W).
        """
        logits = [resize_masks(coarse_masks, self.window_size)]
        for skip in skip_windows:
            size = (self.window_size, self.window_size)
            wide = skip.to(logits[0].dtype)  # see resize_masks
            logits.append(F.interpolate(wide, size, mode="bilinear", align_corners=False)[:, 0])
        return torch.stack(logits).mean(dim=0)
