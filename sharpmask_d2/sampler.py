"""Which object comes next: every category equally often, whatever it has in objects."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from detectron2.utils import comm
from torch.utils.data import Sampler

#: Indices drawn at a time; any number gives a stream as random, this one is fast.
_BLOCK = 1024


class CategoryBalancedSampler(Sampler[int]):
    """An endless stream of indices: a uniform category, then a uniform object of it.

    All ranks draw the same stream and take turns, as those of Detectron2's ``TrainingSampler`` do.
    The stream depends on the seed alone. Iterating anew, also in another process, starts it anew.
    """

    def __init__(
        self,
        categories: Sequence[int] | np.ndarray,
        seed: int | None = None,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        """
        Args:
            categories: (n,) the category of every object, n > 0. Categories that do not occur
                are never drawn.
            seed: the same on all ranks; None for a random one that they agree on.
            rank, world_size: this process takes every ``world_size``-th index, from the
                ``rank``-th on; None for those of this process.

        Raises:
            ValueError: no objects.
        """
        if not len(categories):
            raise ValueError("there are no objects to sample from")
        self._seed = int(comm.shared_random_seed() if seed is None else seed)
        self._rank = comm.get_rank() if rank is None else rank
        self._world_size = comm.get_world_size() if world_size is None else world_size
        # Objects sorted by category: those of a category are one stretch.
        self._objects = np.argsort(np.asarray(categories), kind="stable")
        _, self._starts, self._counts = np.unique(
            np.asarray(categories)[self._objects], return_index=True, return_counts=True
        )

    def __iter__(self) -> Iterator[int]:
        return itertools.islice(self._stream(), self._rank, None, self._world_size)

    def _stream(self) -> Iterator[int]:
        rng = np.random.default_rng(self._seed)
        while True:
            category = rng.integers(len(self._counts), size=_BLOCK)
            nth = rng.integers(self._counts[category])
            yield from self._objects[self._starts[category] + nth].tolist()
