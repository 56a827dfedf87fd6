"""In which order a training reads the images: samplers from a seed, and groups of like shape.

Detectron2's samplers and batches, as functions of indices alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data.samplers import (
    RandomSubsetTrainingSampler,
    RepeatFactorTrainingSampler,
    TrainingSampler,
)
from torch import Tensor
from torch.utils.data import Sampler

from ..config_values import SAMPLERS
from ..errors import ConfigError
from ..seeding import Purpose, derived_seed

Place = tuple[int, int]
"""Index of an image in the data set, and its place in the stream of all processes."""


def sampler_builder(cfg: CfgNode, dicts: Sequence[dict[str, Any]]) -> Callable[[int], Sampler[int]]:
    """From a seed, the same in all processes, to the sampler ``DATALOADER.SAMPLER_TRAIN``.

    What is returned does not hold on to the dicts.

    Args:
        cfg: its ``DATALOADER`` is read.
        dicts: the data set.

    Raises:
        ConfigError: there is no such sampler, or it would draw from no image.
    """
    name, num_images = cfg.DATALOADER.SAMPLER_TRAIN, len(dicts)
    share = cfg.DATALOADER.RANDOM_SUBSET_RATIO
    if name not in SAMPLERS:
        raise ConfigError(f"DATALOADER.SAMPLER_TRAIN is {name!r}; known are {', '.join(SAMPLERS)}")
    if name == "RepeatFactorTrainingSampler":
        threshold = cfg.DATALOADER.REPEAT_THRESHOLD
        factors = RepeatedImages.repeat_factors_from_category_frequency(dicts, threshold)
        return lambda seed: RepeatedImages(factors, seed=seed)
    if name == "RandomSubsetTrainingSampler":
        if not (0 < share <= 1 and int(share * num_images)):
            raise ConfigError(
                f"DATALOADER.RANDOM_SUBSET_RATIO is {share}; it must be at most 1, and leave an "
                f"image of {num_images}"
            )
        return lambda seed: RandomSubsetTrainingSampler(
            num_images, share, seed_shuffle=seed, seed_subset=derived_seed(Purpose.SUBSET, seed)
        )
    return lambda seed: TrainingSampler(num_images, seed=seed)


class RepeatedImages(RepeatFactorTrainingSampler):
    """Detectron2's sampler, whose every epoch of LVIS takes a third of a second: a training that is
    resumed passes over many."""

    def _get_epoch_indices(self, generator: torch.Generator) -> Tensor:
        draws = torch.rand(len(self._frac_part), generator=generator)
        repeats = self._int_part + (draws < self._frac_part)
        return torch.arange(len(repeats)).repeat_interleave(repeats.long())


def shape_groups(dicts: Iterable[dict[str, Any]]) -> bytes:
    """Of each image its group: 0 if it is wider than high, or does not say, else 1."""
    return bytes("width" in d and "height" in d and d["width"] <= d["height"] for d in dicts)


def grouped(
    places: Iterable[Place], groups: bytes, batch_size: int, num_skipped: int = 0
) -> Iterator[list[Place]]:
    """Batches of one group each, as they become full.

    Args:
        places: what to group.
        groups: of each index its group, 0 or 1.
        batch_size: at least 1.
        num_skipped: so many batches are left out at the beginning.
    """
    waiting: tuple[list[Place], list[Place]] = ([], [])
    for place in places:
        batch = waiting[groups[place[0]]]
        batch.append(place)
        if len(batch) == batch_size:
            if num_skipped:
                num_skipped -= 1
            else:
                yield batch.copy()
            batch.clear()
