"""Batches for training that can begin anywhere in their endless stream.

The images of a batch, and how each is augmented, depend on the seed and on the number of the batch
alone: not on the number of workers, nor on what was read before. (In Detectron2's loader, whose
samplers and groups these are, augmentations depend on the history of each worker.)

Mappers draw from the global generators of Python, NumPy or PyTorch, which are seeded for each image
by its place in the stream of all processes together.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList
from detectron2.data.build import _train_loader_from_config
from detectron2.utils import comm
from detectron2.utils.serialize import PicklableWrapper
from torch.utils.data import DataLoader, Dataset, Sampler
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from ..errors import DataError
from ..seeding import Purpose, random_numbers_of
from ..signals import held_back_signals, outlive_one_signal
from .training_order import Place, grouped, sampler_builder, shape_groups

Batch = list[dict[str, Any]]
Mapper = Callable[[Any], dict[str, Any] | None]
Anything = TypeVar("Anything")

#: Images in a row that a mapper may pass over.
MAX_PASSED_OVER = 100


class Items(Protocol):
    """A list or data set."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class TrainingLoader(Iterable[Batch]):
    """Endless batches of this process; iterating begins where :meth:`start_at` says."""

    def __init__(
        self,
        dataset: Items,
        mapper: Mapper,
        build_sampler: Callable[[int], Sampler[int]],
        *,
        total_batch_size: int,
        seed: int,
        groups: bytes | None = None,
        num_workers: int = 0,
    ) -> None:
        """
        Args:
            dataset: the mapper is called with its items. A list is kept serialised, which workers
                share.
            mapper: to the inputs of the model. Where it gives None, another image is taken.
            build_sampler: from a seed to an endless stream of indices, of which each process gets
                its share by turns.
            total_batch_size: of all processes, which share it equally.
            seed: from 0, the same in all processes.
            groups: of each image its group, 0 or 1; batches are of one group. None: no groups.
            num_workers: 0: this process reads the images.
        """
        is_list = isinstance(dataset, list)
        self._dataset = DatasetFromList(dataset, copy=False) if is_list else dataset
        self._mapper = mapper
        self._build_sampler = build_sampler
        self._total_batch_size = total_batch_size
        self._groups = groups
        self._num_workers = num_workers
        self.start_at(seed, 0)

    def start_at(self, seed: int, num_images: int) -> None:
        """Say where iterating begins.

        Args:
            seed: from 0, the same in all processes.
            num_images: that all processes together have had before. Where they do not fill whole
                batches, as after a change of the batch size, the rest of a batch is left out.
        """
        self._seed = seed
        self._first_batch = math.ceil(num_images / self._total_batch_size)

    def __iter__(self) -> Iterator[Batch]:
        size = self._total_batch_size // comm.get_world_size()
        # Single images, of which the next batch is in the making; whole batches for each worker
        # would take many times the memory.
        ahead = max(2, math.ceil(size / self._num_workers)) if self._num_workers else None
        images = DataLoader(
            _SeededImages(self._dataset, self._mapper, self._seed),
            batch_size=None,
            sampler=self._places(size),
            num_workers=self._num_workers,
            prefetch_factor=ahead,
            collate_fn=_itself,
            worker_init_fn=outlive_one_signal,
            generator=torch.Generator(),  # else it draws a number from that of the training
        )
        with held_back_signals():  # one in the first moment of a worker would end it
            stream = iter(images)
        try:
            while True:
                yield list(itertools.islice(stream, size))
        finally:  # the traceback of an error, where somebody keeps it, would keep the workers
            if isinstance(stream, _MultiProcessingDataLoaderIter):
                stream._shutdown_workers()

    def _places(self, batch_size: int) -> Iterator[Place]:
        """Those of this process, batch after batch."""
        turns = itertools.count(comm.get_rank(), comm.get_world_size())
        places = zip(self._build_sampler(self._seed), turns)  # noqa: B905 - both are endless
        if self._groups is None:
            return itertools.islice(places, self._first_batch * batch_size, None)
        batches = grouped(places, self._groups, batch_size, self._first_batch)
        return itertools.chain.from_iterable(batches)


class _SeededImages(Dataset[dict[str, Any]]):
    """What the mapper makes of the image at a :data:`Place`."""

    def __init__(self, dataset: Items, mapper: Mapper, seed: int) -> None:
        self._dataset = dataset
        self._mapper = PicklableWrapper(mapper)  # for systems whose workers are not forked
        self._seed = seed

    def __getitem__(self, place: Place) -> dict[str, Any]:
        index, position = place
        with random_numbers_of(Purpose.IMAGE, self._seed, position):
            for _ in range(MAX_PASSED_OVER):
                result: dict[str, Any] | None = self._mapper(self._dataset[index])
                if result is not None:
                    return result
                index = np.random.randint(len(self._dataset))
        raise DataError(f"the data set mapper gave None for {MAX_PASSED_OVER} images in a row")


def _itself(value: Anything) -> Anything:
    return value


def training_seed(cfg: CfgNode) -> int:
    """``SEED``, or where that is negative a random one; called in all processes at once."""
    return cfg.SEED if cfg.SEED >= 0 else int(comm.shared_random_seed())


def build_training_loader(
    cfg: CfgNode, dicts: list[dict[str, Any]] | None = None, mapper: Mapper | None = None
) -> TrainingLoader:
    """Whole images, drawn and grouped as ``DATALOADER`` says, ``SOLVER.IMS_PER_BATCH`` over all
    processes.

    Args:
        cfg: the seed is :func:`training_seed`'s.
        dicts: the data set; None: Detectron2 loads ``DATASETS.TRAIN``.
        mapper: None: Detectron2's.
    """
    # Any sampler that is given keeps Detectron2 from making one now.
    parts = _train_loader_from_config(cfg, mapper, dataset=dicts, sampler="later")
    records = parts["dataset"]
    return TrainingLoader(
        records,
        parts["mapper"],
        sampler_builder(cfg, records),
        total_batch_size=parts["total_batch_size"],
        seed=training_seed(cfg),
        groups=shape_groups(records) if parts["aspect_ratio_grouping"] else None,
        num_workers=parts["num_workers"],
    )
