"""What goes on inside SharpMask for one image: scores of all windows, and the steps of one mask.

For people to look at; :mod:`.full_image` is what computes proposals, and this watches it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from .full_image import ImageInput, find_windows, masks_of_level
from .pyramid import Size, level_sizes, num_windows, pyramid_level
from .refinement import Refinement
from .sharpmask import SharpMask


@dataclass(frozen=True)
class Level:
    """One size of the image.

    Attributes:
        size: (h, w).
        picture: (P, Q, 3) uint8, in its frame of grey, in the model's order of channels.
        scores: (rows, columns) float32, each window's probability of an object.
    """

    size: Size
    picture: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class RefinedWindow:
    """One of the best windows.

    Attributes:
        level: index of the level that it is in.
        corner: y and x of its top left corner in the level's picture.
        score: probability of an object.
        coarse, sharp: (W, W) float32, probabilities of the two masks.
        states: M_1, ..., M_{L+1}, each (k_i, h_i, w_i) float32.
    """

    level: int
    corner: tuple[int, int]
    score: float
    coarse: np.ndarray
    sharp: np.ndarray
    states: list[np.ndarray]


@torch.no_grad()
def look_inside(
    model: SharpMask, inputs: dict[str, Any], num: int = 1
) -> tuple[list[Level], list[RefinedWindow]]:
    """The levels of an image, from small to large, and its best windows, best first.

    Args:
        model: in eval mode, with a :class:`.Refinement`, and answering with sharp masks.
        inputs: see :meth:`.full_image.ImageInput.read`.
        num: so many windows.
    """
    image = ImageInput.read(inputs, model.device)
    sizes = level_sizes(image.size, model.proposals.scales_of(*image.size))
    with _recorded(model.head, lambda _, output: output.score_logits) as scores:
        found = find_windows(model, image, sizes)
    levels = []
    for size, logits in zip(sizes, scores, strict=True):
        rows, columns = num_windows(size, model.stride)
        padded = pyramid_level(image.pixels, size, model.window_size, model.stride)
        picture = padded.permute(1, 2, 0).round().byte().cpu().numpy()
        probabilities = logits[0, 0, :rows, :columns].float().sigmoid().cpu().numpy()
        levels.append(Level(size, picture, probabilities))
    found = found._replace(windows=found.windows.take(torch.arange(len(found.windows))[:num]))
    windows = dict(_windows(model, image, found, len(sizes)))
    return levels, [windows[rank] for rank in range(len(windows))]


def _windows(
    model: SharpMask, image: ImageInput, found: Any, num_levels: int
) -> Iterator[tuple[int, RefinedWindow]]:
    """(rank, window) of all found windows, level by level."""
    refinement = cast(Refinement, model.refinement)
    for level in range(num_levels):
        with ExitStack() as stack:
            takers = [*cast(Any, refinement.steps), refinement.output]
            states = [
                stack.enter_context(_recorded(taker, lambda args, _: args[0])) for taker in takers
            ]
            parts = list(masks_of_level(model, image, found, level))
        for part, (ranks, logits, _) in enumerate(parts):
            chosen = found.windows.take(ranks)
            coarse = model.coarse_masks(chosen.encodings, model.window_size).sigmoid()
            for row, rank in enumerate(ranks.tolist()):
                y, x = (chosen.cells[row] * model.stride).tolist()
                yield (
                    rank,
                    RefinedWindow(
                        level,
                        (y, x),
                        float(chosen.scores[row].sigmoid()),
                        coarse[row].cpu().numpy(),
                        logits[row].sigmoid().cpu().numpy(),
                        [of_step[part][row].float().cpu().numpy() for of_step in states],
                    ),
                )


@contextmanager
def _recorded(
    module: nn.Module, what: Callable[[tuple[Any, ...], Any], Tensor]
) -> Iterator[list[Tensor]]:
    """The list to which every run of a module adds something of its arguments and output."""
    record: list[Tensor] = []
    hook = module.register_forward_hook(
        lambda _, args, output: record.append(what(args, output).detach().clone())
    )
    try:
        yield record
    finally:
        hook.remove()
