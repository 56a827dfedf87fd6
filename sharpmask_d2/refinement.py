"""The top-down refinement of SharpMask (arXiv 1603.08695, section 3).

A coarse encoding of the window grows in steps, each of which merges a finer feature of the trunk
and doubles the size:

    M_{i+1} = Up2(ReLU(Conv([S_i, M_i])))                 form "original"
            = Up2(ReLU(Conv_s(S_i) + Conv_m(M_i)))        form "refactored"

A convolution over a concatenation is a sum of convolutions, so both are the same function;
:func:`refactored_state` and :func:`original_state` map the weights of one onto the other. In the
second the part of S is the same for all windows that see a cell: computed once per image.

Shape shorthand: n windows, D length of an encoding, W side of a window in pixels, c its cells in
the trunk's feature; i = 1..L the steps from the deepest skip feature to the shallowest (stride 2);
k_i channels of M_i, of c * 2^(i-1) cells a side; h_i channels after a skip's first convolution.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from detectron2.config import CfgNode, configurable
from detectron2.utils.registry import Registry
from torch import Tensor, nn
from torch.nn import functional as F

from instseg_d2.errors import ConfigError
from instseg_d2.registry import look_up

from .options import choose
from .padding import check_cells, set_padding_mode

NODE = "MODEL.SHARP_MASK.REFINEMENT"

REFINEMENT_REGISTRY: Registry = Registry("SHARPMASK_REFINEMENT")
REFINEMENT_REGISTRY.__doc__ = """
What makes a sharp mask of an encoding and the skip features, named by
``MODEL.SHARP_MASK.REFINEMENT.NAME``.

Called as ``refinement(cfg, skip_channels, cells)``, channels from deep to shallow; the module has
``skips`` and ``forward`` as :class:`Refinement` describes them, and ``needs_coarse_masks``.
"""


def build_refinement(cfg: CfgNode, skip_channels: Sequence[int], cells: int) -> nn.Module:
    """The module that ``MODEL.SHARP_MASK.REFINEMENT.NAME`` names."""
    name = cfg.MODEL.SHARP_MASK.REFINEMENT.NAME
    return look_up(REFINEMENT_REGISTRY, name, f"{NODE}.NAME")(cfg, skip_channels, cells)


def channel_schedule(first: int, steps: int, schedule: str) -> list[int]:
    """k_1 to k_{steps+1}: ``constant``, or ``halving`` as in FAIR's code.

    Raises:
        ConfigError: an unknown schedule, or a number that cannot be halved so often.
    """
    divisor = choose({"constant": 1, "halving": 2}, schedule, f"{NODE}.SCHEDULE")
    if first < 1 or first % divisor**steps:
        raise ConfigError(
            f"{NODE}.CHANNELS is {first}, but with SCHEDULE {schedule} and {steps} steps it must "
            f"be a positive multiple of {divisor**steps}"
        )
    return [first // divisor**step for step in range(steps + 1)]


#: Arguments of torch's ``interpolate``.
UPSAMPLINGS: dict[str, dict[str, Any]] = {
    "nearest": {"mode": "nearest"},
    "bilinear": {"mode": "bilinear", "align_corners": False},
}


class RefinementStep(nn.Module):
    """One i: the feature F_i and M_i to M_{i+1}, before its ReLU and upsampling."""

    def __init__(self, *, feature: int, hidden: int, state: int, layout: str) -> None:
        """
        Args:
            feature, hidden, state: channels of F_i, h_i and k_i.
            layout: see :class:`Refinement`.
        """
        super().__init__()
        self.skip, self.skip_channels = skip_layers(feature, hidden, state, layout)
        self.vertical = nn.Sequential()
        if layout == "released":
            self.vertical = nn.Sequential(conv3x3(state, state), nn.ReLU(inplace=True))

    def dense(self, feature: Tensor) -> Tensor:
        """The part that is the same for all windows: (B, F_i, h, w) -> (B, C, h, w)."""
        raise NotImplementedError

    def forward(self, state: Tensor, dense: Tensor) -> Tensor:
        """M_i (n, k_i, h, w) and windows of :meth:`dense` (n, C, h, w) -> (n, k_{i+1}, h, w)."""
        raise NotImplementedError


class OriginalStep(RefinementStep):
    """``mix`` convolves the concatenation [S_i, vertical(M_i)]."""

    def __init__(self, *, out: int, **kwargs: Any) -> None:
        """``out`` is k_{i+1}."""
        super().__init__(**kwargs)
        self.mix = conv3x3(self.skip_channels + kwargs["state"], out)

    def dense(self, feature: Tensor) -> Tensor:
        return self.skip(feature)

    def forward(self, state: Tensor, dense: Tensor) -> Tensor:
        return self.mix(torch.cat([dense, self.vertical(state)], dim=1))


class RefactoredStep(RefinementStep):
    """``skip_out`` convolves S_i, ``vertical_out`` vertical(M_i); the answer is their sum."""

    def __init__(self, *, out: int, **kwargs: Any) -> None:
        """``out`` is k_{i+1}."""
        super().__init__(**kwargs)
        self.skip_out = conv3x3(self.skip_channels, out)
        self.vertical_out = conv3x3(kwargs["state"], out)

    def dense(self, feature: Tensor) -> Tensor:
        return self.skip_out(self.skip(feature))

    def forward(self, state: Tensor, dense: Tensor) -> Tensor:
        return dense + self.vertical_out(self.vertical(state))


FORMS: dict[str, type[OriginalStep] | type[RefactoredStep]] = {
    "original": OriginalStep,
    "refactored": RefactoredStep,
}


@REFINEMENT_REGISTRY.register()
class Refinement(nn.Module):
    """SharpMask's refinement: M_1 is linear in the encoding, L steps, then a 3x3 convolution to 1.

    Layouts, each convolution 3x3:

    * ``released`` (FAIR's code): S_i: F_i -> h_i, ReLU, -> k_i, ReLU; M_i: -> k_i, ReLU; then both
      -> k_{i+1}.
    * ``paper``: S_i: F_i -> h_i, ReLU; then S_i and M_i -> k_{i+1}.
    """

    needs_coarse_masks = False

    @configurable
    def __init__(
        self,
        *,
        skip_channels: Sequence[int],
        cells: int,
        encoding_dim: int = 512,
        form: str = "refactored",
        layout: str = "released",
        schedule: str = "halving",
        channels: int = 32,
        hidden_channels: Sequence[int] = (64, 64, 64, 32),
        upsampling: str = "nearest",
        padding: str = "symmetric",
    ) -> None:
        """
        Args:
            skip_channels: F_1 to F_L.
            cells: c.
            encoding_dim: D.
            form: ``refactored`` or ``original``.
            layout: ``released`` or ``paper``.
            schedule: of the channels, ``halving`` or ``constant``.
            channels: k_1.
            hidden_channels: h_1 to h_L.
            upsampling: ``nearest`` (FAIR's code) or ``bilinear`` (the paper).
            padding: see :mod:`.padding`.

        Raises:
            ConfigError: an unknown name, or numbers of channels that do not fit.
        """
        super().__init__()
        check_cells(cells, padding)
        make_step = choose(FORMS, form, f"{NODE}.FORM")
        self.upsampling = choose(UPSAMPLINGS, upsampling, f"{NODE}.UPSAMPLING")
        widths = channel_schedule(channels, len(skip_channels), schedule)
        self.cells = cells
        self.project = nn.Linear(encoding_dim, widths[0] * cells**2)
        self.steps = nn.ModuleList(
            make_step(feature=feature, hidden=hidden, state=state, out=out, layout=layout)
            for feature, hidden, state, out in zip(
                skip_channels,
                check_hidden(hidden_channels, skip_channels),
                widths[:-1],
                widths[1:],
                strict=True,
            )
        )
        self.output = conv3x3(widths[-1], 1)
        set_padding_mode(self, padding)

    @classmethod
    def from_config(cls, cfg: CfgNode, skip_channels: Sequence[int], cells: int) -> dict[str, Any]:
        node = cfg.MODEL.SHARP_MASK.REFINEMENT
        return {
            "skip_channels": skip_channels,
            "cells": cells,
            "encoding_dim": cfg.MODEL.SHARP_MASK.HEAD.ENCODING_DIM,
            "form": node.FORM,
            "layout": node.LAYOUT,
            "schedule": node.SCHEDULE,
            "channels": node.CHANNELS,
            "hidden_channels": node.HORIZONTAL_CHANNELS,
            "upsampling": node.UPSAMPLING,
            "padding": cfg.MODEL.SHARP_MASK.PADDING,
        }

    def initial(self, encodings: Tensor) -> Tensor:
        """M_1: (n, D) -> (n, k_1, c, c)."""
        return self.project(encodings).unflatten(1, (-1, self.cells, self.cells))

    def skips(self, features: Iterable[Tensor]) -> list[Tensor]:
        """What of the refinement is the same for all windows of an image.

        Args:
            features: F_1 to F_L, (B, F_i, h_i, w_i) of any size. Of an iterator one at a time is
                in memory.

        Returns:
            per step (B, ., h_i, w_i). A cell depends on its surroundings, 3 cells around at most.
        """
        steps = cast(Iterable[RefinementStep], self.steps)
        return [step.dense(feature) for step, feature in zip(steps, features, strict=True)]

    def forward(
        self,
        encodings: Tensor,
        skip_windows: Sequence[Tensor],
        coarse_masks: Tensor | None = None,
    ) -> Tensor:
        """
        Args:
            encodings: (n, D), of the windows.
            skip_windows: what :meth:`skips` gives, cut to the windows: (n, ., c * 2^(i-1), the
                same).
            coarse_masks: not used here, as ``needs_coarse_masks`` says; other modules of the
                registry may need them.

        Returns:
            mask logits (n, W, W).
        """
        state = self.initial(encodings)
        for step, skip in zip(self.steps, skip_windows, strict=True):
            state = F.interpolate(F.relu(step(state, skip)), scale_factor=2, **self.upsampling)
        return self.output(state)[:, 0]


def has_original_form(names: Iterable[str]) -> bool:
    """Whether these are the names of a model with a refinement of the form ``original``."""
    return any(re.fullmatch(r"refinement\.steps\.\d+\.mix\.weight", name) for name in names)


def refactored_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the form ``original`` as the form ``refactored`` has them: the same function.

    Args:
        state: of a :class:`Refinement` or of a model that has one; other tensors are kept.
    """
    result = {}
    for name, value in state.items():
        if not name.endswith(("mix.weight", "mix.bias")):
            result[name] = value
            continue
        step, kind = name.rsplit("mix.", 1)
        if kind == "weight":
            channels = _skip_channels(state, step)
            horizontal, vertical = value[:, :channels].clone(), value[:, channels:].clone()
        else:
            horizontal, vertical = value.clone(), torch.zeros_like(value)
        result[f"{step}skip_out.{kind}"] = horizontal
        result[f"{step}vertical_out.{kind}"] = vertical
    return result


def original_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the form ``refactored`` as the form ``original`` has them: the same function.

    Args:
        state: of a :class:`Refinement` or of a model that has one; other tensors are kept.
    """
    result = {}
    for name, value in state.items():
        if name.endswith(("skip_out.weight", "skip_out.bias")):
            step, kind = name.rsplit("skip_out.", 1)
            vertical = state[f"{step}vertical_out.{kind}"]
            mixed = torch.cat([value, vertical], dim=1) if kind == "weight" else value + vertical
            result[f"{step}mix.{kind}"] = mixed
        elif not name.endswith(("vertical_out.weight", "vertical_out.bias")):
            result[name] = value
    return result


def _skip_channels(state: Mapping[str, Tensor], step: str) -> int:
    """Channels of S_i, by the last of the layers that make it."""
    pattern = re.compile(re.escape(step) + r"skip\.(\d+)\.weight")
    layers = {int(match[1]): name for name in state if (match := pattern.fullmatch(name))}
    return state[layers[max(layers)]].shape[0]


def skip_layers(feature: int, hidden: int, state: int, layout: str) -> tuple[nn.Sequential, int]:
    """What makes S_i of F_i, and the channels of S_i; see :class:`Refinement` for the layouts."""
    layers = [conv3x3(feature, hidden), nn.ReLU(inplace=True)]
    if choose({"released": True, "paper": False}, layout, f"{NODE}.LAYOUT"):
        layers += [conv3x3(hidden, state), nn.ReLU(inplace=True)]
        return nn.Sequential(*layers), state
    return nn.Sequential(*layers), hidden


def check_hidden(hidden: Sequence[int], skips: Sequence[int]) -> Sequence[int]:
    """``hidden``, if it has one entry per skip feature; ``ConfigError`` else."""
    if len(hidden) != len(skips):
        raise ConfigError(
            f"{NODE}.HORIZONTAL_CHANNELS must have {len(skips)} entries, one per skip feature from "
            f"the trunk's stride to 2; it has {len(hidden)}"
        )
    return hidden


def conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    """Starts as PyTorch's default, which is Torch7's and so FAIR's."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)
