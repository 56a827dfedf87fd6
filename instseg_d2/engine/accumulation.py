"""Several batches in one step of the optimiser, equal to one large batch.

A loss that is a mean over images: the losses of a batch are weighted by its share of the images.
That holds for DeepMask and SharpMask. Detectron2's own models, which divide by regions that they
sample, are treated likewise, as they are when several processes share a batch.

A loss that is divided by something else, as SparseInst's by the instances: the model has a method
``step_totals(batches)``, which is called with all batches of a step before the first of them runs,
in every process. What it returns is given to ``forward`` as its argument ``step_totals``, beside
each batch; the losses of the batches then have to add up to those of one large batch.

What still differs from a large batch: images are padded to the largest of their own batch; batch
norms that are trained take their statistics from one batch at a time, and update them as often;
dropout and the like draw other numbers.
"""

import contextlib
import time
from collections.abc import Iterable, Iterator
from typing import Any, cast

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .amp import MixedPrecisionTrainer

Batch = list[dict[str, Any]]


class SplitBatches(Iterable[Batch]):
    """The batches of a loader, each split into equal parts, one after the other.

    A loader of large batches, split, gives the images of a step as a training without accumulation
    would see them, grouped by their aspect ratio and augmented alike.
    """

    def __init__(self, loader: Iterable[Batch], parts: int) -> None:
        """
        Args:
            loader: its batches have a multiple of ``parts`` images.
            parts: at least 1.
        """
        self.loader = loader
        self.parts = parts

    def start_at(self, seed: int, num_images: int) -> None:
        """As of a :class:`~instseg_d2.data.training_loader.TrainingLoader`, which it must be of."""
        cast(Any, self.loader).start_at(seed, num_images)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.loader:
            size = len(batch) // self.parts
            yield from (batch[start : start + size] for start in range(0, len(batch), size))


class AccumulatingTrainer(MixedPrecisionTrainer):
    """Draws several batches, sums their gradients, and takes one step.

    The metrics that are written are those of the whole step.
    """

    def __init__(self, *args: Any, num_batches: int, **kwargs: Any) -> None:
        """
        Args:
            num_batches: so many for each step.
            args, kwargs: of :class:`.MixedPrecisionTrainer`.
        """
        super().__init__(*args, **kwargs)
        self.num_batches = num_batches

    def run_step(self) -> None:
        """One iteration: as of :class:`.MixedPrecisionTrainer`."""
        assert self.model.training, "the model was changed to eval mode"
        start = time.perf_counter()
        batches = [next(self._data_loader_iter) for _ in range(self.num_batches)]
        data_time = time.perf_counter() - start

        shares, more = normalisation(self.model, batches)
        if self.guard is not None:
            self.guard.before_step(batches)
        self.optimizer.zero_grad()
        total: dict[str, Tensor] = {}
        for index, (batch, share) in enumerate(zip(batches, shares, strict=True)):
            with self._synchronised(index == self.num_batches - 1):
                losses = self._forward(batch, **more)
                losses = {name: share * value for name, value in losses.items()}
                self._backward(cast(Tensor, sum(losses.values())))
            for name, value in losses.items():
                total[name] = total.get(name, 0) + value.detach()
        self._finish_step(total, data_time)

    def _synchronised(self, is_last: bool) -> contextlib.AbstractContextManager[Any]:
        """Processes exchange gradients once a step: the sum, with the last batch."""
        if isinstance(self.model, DistributedDataParallel) and not is_last:
            return self.model.no_sync()
        return contextlib.nullcontext()


def normalisation(model: nn.Module, batches: list[Batch]) -> tuple[list[float], dict[str, Any]]:
    """The weight of each batch's losses in a step, and what else ``forward`` is given.

    Args:
        model: may be wrapped in ``DistributedDataParallel``.
        batches: of one step, in this process.
    """
    if isinstance(model, DistributedDataParallel):
        model = model.module
    step_totals: Any = getattr(model, "step_totals", None)
    if step_totals is not None:
        return [1.0] * len(batches), {"step_totals": step_totals(batches)}
    num_images = sum(len(batch) for batch in batches)
    return [len(batch) / num_images for batch in batches], {}
