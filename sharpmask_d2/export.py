"""DeepMask and SharpMask as two graphs: windows of one size of an image, and masks of windows.

Between the two a program chooses the best windows over all sizes; docs/export.md shows it.

Shape shorthand: (P, Q) a level in its frame of grey (:mod:`.pyramid`); D length of an encoding;
n windows, W their side; i the strides of the maps that the masks share (none of DeepMask), C_i
channels.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

import instseg_d2
from instseg_d2.errors import ConfigError
from instseg_d2.export.parts import GraphFiles, Part
from instseg_d2.export.settings import ExportSettings
from instseg_d2.export.verify import pictures
from instseg_d2.inference import InferenceOptions, prepare_for_inference

from .deepmask import DeepMask
from .full_image import logit
from .proposal_options import PRESETS
from .window_maps import cut_windows

#: Sides of levels, in strides beyond the window. The first is for tracing; the last is the
#: smallest that there is.
EXAMPLE_SIZE, *CHECK_SIZES = (3, 5), (6, 2), (1, 1)
#: Windows of the second graph: for tracing, and those it is compared with.
EXAMPLE_WINDOWS, *CHECK_WINDOWS = 3, 7, 1


class WindowsGraph(nn.Module):
    """The trunk, the head and what the masks share, for one level."""

    def __init__(self, model: DeepMask, *, is_bgr: bool) -> None:
        """
        Args:
            model: in eval mode; taken over.
            is_bgr: the model reads BGR; the graph's input is RGB all the same.
        """
        super().__init__()
        self.model = model
        self.is_bgr = is_bgr

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """
        Args:
            inputs: one level (1, 3, P, Q) float32 RGB, 0..255, as :func:`.pyramid_level` makes it;
                P and Q multiples of the stride, at least W and one stride.

        Returns:
            score logits (1, rows, columns), encodings (1, D, rows, columns), and by stride the
            maps (1, C_i, P / i, Q / i), deep first.
        """
        (level,) = inputs
        if self.is_bgr:
            level = level.flip(1)
        features = self.model.backbone(self.model.normalise(level))
        output = self.model.head(features[self.model.feature])
        maps = self.model.window_maps(features)
        return output.score_logits[:, 0], output.encoding, *maps.values()


class MasksGraph(nn.Module):
    """The refinement, or of DeepMask the head's last layer."""

    def __init__(self, model: DeepMask) -> None:
        """``model``: in eval mode; taken over."""
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> tuple[Tensor]:
        """
        Args:
            inputs: encodings (n, D), then by stride the maps cut to the windows
                (n, C_i, W / i, W / i), deep first.

        Returns:
            mask logits (n, W, W).
        """
        encodings, *maps = inputs
        return (self.model.window_masks(encodings, maps),)


def build_export_parts(
    cfg: CfgNode, model: nn.Module, settings: ExportSettings, name: str
) -> GraphFiles:
    """Both graphs of a DeepMask or SharpMask, which is not changed.

    Args:
        cfg: of the model.
        model: trained, in eval mode, on the CPU.
        settings: what is wanted.
        name: of the config, for the metadata.

    Raises:
        ConfigError: what is wanted is not possible.
    """
    check_settings(settings)
    assert isinstance(model, DeepMask)
    prepared: Any = prepare_for_inference(model, InferenceOptions(channels_last=False))
    windows = WindowsGraph(prepared, is_bgr=settings.is_bgr).eval()
    own_windows = WindowsGraph(model, is_bgr=settings.is_bgr)
    with torch.no_grad():
        seen = [level_of(model, size) for size in (EXAMPLE_SIZE, *CHECK_SIZES)]
        strides = map_strides(model, seen[0])
        counts = (EXAMPLE_WINDOWS, *CHECK_WINDOWS)
        cut = [window_inputs(model, own_windows(seen[1]), strides, count) for count in counts]
    skips = [f"skip_{stride}" for stride in strides]
    return GraphFiles(
        (
            Part(
                "windows",
                windows,
                own_windows,
                {"level": (2, 3)},
                ("scores", "encodings", *skips),
                (seen[0],),
                tuple((level,) for level in seen[1:]),
            ),
            Part(
                "masks",
                MasksGraph(prepared).eval(),
                MasksGraph(model),
                dict.fromkeys(("encodings", *skips), (0,)),
                ("masks",),
                cut[0],
                tuple(cut[1:]),
                logit(model.proposals.mask_threshold),
            ),
        ),
        metadata(cfg, model, strides, name),
    )


def check_settings(settings: ExportSettings) -> None:
    """Raise ``ConfigError`` for what these graphs cannot do."""
    if settings.precision != "float32":
        raise ConfigError(
            f"--precision {settings.precision} is not written for DeepMask and SharpMask: which "
            "windows are the best depends on small differences of their scores; give float32"
        )
    if settings.score_threshold is not None:
        raise ConfigError(
            "--score-threshold is not for DeepMask and SharpMask: their graphs give the scores of "
            "all windows, of which the program that runs them chooses; it finds "
            "MODEL.SHARP_MASK.PROPOSALS.SCORE_THRESHOLD in the metadata"
        )
    if settings.top_k is not None:
        raise ConfigError(
            "--top-k is not for DeepMask and SharpMask: the program that runs their graphs chooses "
            "how many windows become masks; it finds MODEL.SHARP_MASK.PROPOSALS.NUM in the metadata"
        )


def level_of(model: DeepMask, size: tuple[int, int]) -> Tensor:
    """A level (1, 3, P, Q) float32, so many strides larger than the window."""
    height, width = (model.window_size + steps * model.stride for steps in size)
    return torch.from_numpy(pictures(1, height, width)).permute(0, 3, 1, 2).float().contiguous()


def map_strides(model: DeepMask, level: Tensor) -> list[int]:
    """Of the maps that the masks share, deep first."""
    return list(model.window_maps(model.backbone(model.normalise(level))))


def window_inputs(
    model: DeepMask, outputs: tuple[Tensor, ...], strides: list[int], count: int
) -> tuple[Tensor, ...]:
    """What the second graph takes, of ``count`` windows along the rows of the first's outputs."""
    _, encodings, *maps = outputs
    rows, columns = encodings.shape[-2:]
    index = torch.arange(count) * (rows * columns // count)
    cells = torch.stack([index // columns, index % columns], dim=1)
    cut = (
        cut_windows(values, cells, model.window_size // fine, model.stride // fine).contiguous()
        for fine, values in zip(strides, maps, strict=True)
    )
    return encodings[0, :, cells[:, 0], cells[:, 1]].T.contiguous(), *cut


def metadata(cfg: CfgNode, model: DeepMask, strides: list[int], name: str) -> dict[str, str]:
    """What a program that runs the graphs needs to know, as JSON by key."""
    options = model.proposals
    values = {
        "product": f"instseg-d2 {instseg_d2.__version__}",
        "config": name,
        "architecture": cfg.MODEL.META_ARCHITECTURE,
        "input": "level (1, 3, P, Q) float32 RGB, 0..255",
        "window_size": model.window_size,
        "stride": model.stride,
        "skip_strides": strides,
        "min_size": cfg.INPUT.MIN_SIZE_TEST,
        "max_size": cfg.INPUT.MAX_SIZE_TEST,
        "pixel_mean": list(cfg.MODEL.PIXEL_MEAN),
        "pixel_std": list(cfg.MODEL.PIXEL_STD),
        "pixel_order": cfg.INPUT.FORMAT,
        **asdict(options),
        "scales": sorted(options.scales or PRESETS[options.preset]),
    }
    return {key: json.dumps(value) for key, value in values.items()}
