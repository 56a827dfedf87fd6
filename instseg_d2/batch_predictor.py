"""Predictions for many images: reading and resizing go on while the model works."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Any, Literal

import numpy as np
import torch
from detectron2.config import CfgNode
from torch import nn

from .batching import in_batches
from .data.config_datasets import drawing_metadata, register_config_datasets
from .errors import ConfigError, DataError
from .image_sources import Image, NamedImage, named_images
from .modeling import build_inference_model
from .prefetch import prefetch
from .preprocessing import ImagePreprocessor
from .stage_clock import StageClock

OnError = Literal["raise", "skip"]

OF_ONE_IMAGE = (DataError, MemoryError, torch.cuda.OutOfMemoryError)
"""What a model raises where an image of a batch is at fault, or the batch is too large."""

Preprocess = Callable[[np.ndarray, str], dict[str, Any]]
"""(image (H, W, 3) uint8 BGR, its name) -> what the model takes."""


@dataclass(frozen=True)
class Prediction:
    """What became of one image.

    Attributes:
        index: its position in the source, from 0.
        name: its path; for an array ``image 5``, for a frame ``clip.mp4, frame 5``.
        output: what the model gives, ``{"instances": Instances}`` or ``{"proposals": ...}``; empty
            if the image could not be used.
        error: why it could not; else None.
        image: (H, W, 3) uint8 BGR, if it was to be kept; else None.
        full_size: (height, width) of the image; where it was reduced, before that. None if it could
            not be read.
    """

    index: int
    name: str
    output: dict[str, Any]
    error: DataError | None = None
    image: np.ndarray | None = None
    full_size: tuple[int, int] | None = None


@dataclass(frozen=True)
class _Prepared:
    """An image that the model can take (``inputs``), or why it cannot."""

    prediction: Prediction
    inputs: dict[str, Any] | None


class BatchPredictor:
    """Predicts the images of a list, folder, video or stream in batches on ``MODEL.DEVICE``.

    The results are those of :class:`.Predictor` for one image at a time, up to rounding: images
    share a batch only if they are padded to the same size, because the padding reaches into the
    results at the borders and, where features are pooled, everywhere. Images of several sizes are
    therefore collected by size, from the next ``window`` images at most; the order is kept.

    At a time there are never more than ``window + batch_size + num_workers`` images, however many
    there are in all. Those in the window may have their results, which are bigger than the images:
    a hundred masks of 640 x 480 are 30 MB.

    With ``num_workers`` above 0, threads read and prepare images. They end with the results, also
    if the iteration is left early, by an exception or Ctrl-C. As a context manager, the predictor
    ends what is still open.

    ::

        with BatchPredictor(cfg, batch_size=8) as predictor:
            for prediction in predictor("folder/"):
                print(prediction.name, len(prediction.output["instances"]))

    Attributes:
        model: in eval mode, with ``MODEL.WEIGHTS``, made faster as ``MODEL.INFERENCE`` says.
        preprocess: from an image as it was read to the model's input.
        metadata: of the first of ``DATASETS.TEST``, else of ``DATASETS.TRAIN`` (class names for
            drawing), or None.
        clock: how long the model took (stage ``model``), without reading and resizing.
        num_predicted: images that it took so long for.
    """

    def __init__(
        self,
        cfg: CfgNode,
        *,
        batch_size: int = 8,
        num_workers: int = 2,
        window: int | None = None,
        max_pixels: int | None = None,
    ) -> None:
        """
        Args:
            cfg: see :func:`instseg_d2.model_zoo.get_config`; ``MODEL.WEIGHTS`` names the
                checkpoint.
            batch_size: most images in a batch.
            num_workers: threads that read and resize; one more iterates over the source. 0 for no
                threads, for sources that must be read where they were made.
            window: among so many images a batch of one size is looked for, at least
                ``batch_size``; None for four times that.
            max_pixels: files of images with more pixels are reduced as they are read, and the
                results are those of the reduced image; None: never.

        Raises:
            ConfigError: a number is out of range.
            WeightsError: the weights cannot be loaded or belong to another config.
            DeviceError: ``MODEL.DEVICE`` is not there.
        """
        window = 4 * batch_size if window is None else window
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("num_workers", num_workers, 0),
            ("window", window, batch_size),
        ):
            if value < least:
                raise ConfigError(f"{name} is {value}, but must be at least {least}")
        self.preprocess: Preprocess = ImagePreprocessor.from_config(cfg)
        register_config_datasets(cfg)
        self.model = build_inference_model(cfg)
        self.metadata = drawing_metadata(cfg)
        self.clock = StageClock(cfg.MODEL.DEVICE)
        self.num_predicted = 0
        self._batch_size, self._num_workers, self._window = batch_size, num_workers, window
        self._max_pixels = max_pixels
        self._open: weakref.WeakSet[Generator[Prediction, None, None]] = weakref.WeakSet()

    def __call__(
        self,
        source: Image | Iterable[Image],
        *,
        on_error: OnError = "raise",
        keep_images: bool = False,
    ) -> Generator[Prediction, None, None]:
        """Predictions in the order of the source. Work begins with the first that is asked for.

        Args:
            source: the path of an image, of a video or of a folder (its image files, by name); an
                array (H, W, 3) uint8 BGR; or any iterable of paths of images and of arrays, which
                must stay as they are once they were given.
            on_error: what an image that cannot be read, prepared or predicted leads to: "raise", or
                "skip": a prediction with its ``error`` and without output.
            keep_images: whether predictions have their image, as for drawing.

        Raises:
            ConfigError: another ``on_error``.
            DataError: the source has no images or cannot be opened; with "raise", when its turn
                comes, an image that cannot be used. The message names it.
        """
        if on_error not in ("raise", "skip"):
            raise ConfigError(f"on_error is {on_error!r}; known are 'raise' and 'skip'")
        predictions = self._predictions(named_images(source), on_error, keep_images)
        self._open.add(predictions)
        return predictions

    def close(self) -> None:
        """End all iterations that are still open, and their threads."""
        for predictions in list(self._open):
            predictions.close()

    def __enter__(self) -> BatchPredictor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _predictions(
        self, images: Generator[NamedImage, None, None], on_error: OnError, keep_images: bool
    ) -> Generator[Prediction, None, None]:
        def prepare(numbered: tuple[int, NamedImage]) -> _Prepared:
            return self._prepare(*numbered, on_error, keep_images)

        prepared = prefetch(
            _enumerated(images),
            prepare,
            num_workers=self._num_workers,
            ahead=self._batch_size + self._num_workers,
        )
        with closing(prepared):
            yield from in_batches(
                prepared,
                key=self._padded_size,
                run=partial(self._run, on_error),
                batch_size=self._batch_size,
                window=self._window,
            )

    def _prepare(
        self, index: int, named: NamedImage, on_error: OnError, keep_images: bool
    ) -> _Prepared:
        try:
            image, full_size = named.read_reduced(self._max_pixels)
            inputs = self.preprocess(image, named.name)
        except Exception as error:  # OpenCV, for one, raises errors of its own
            failure = _failure(error, named.name, "prepared", on_error)
            return _Prepared(Prediction(index, named.name, {}, failure), None)
        kept = image if keep_images else None
        prediction = Prediction(index, named.name, {}, image=kept, full_size=full_size)
        return _Prepared(prediction, inputs)

    def _padded_size(self, prepared: _Prepared) -> tuple[int, int] | None:
        """(height, width) at which the model sees an image; None for no image."""
        if prepared.inputs is None:
            return None
        height, width = prepared.inputs["image"].shape[-2:]
        step = _size_divisibility(self.model)
        return math.ceil(height / step) * step, math.ceil(width / step) * step

    @torch.no_grad()
    def _run(self, on_error: OnError, batch: list[_Prepared]) -> list[Prediction]:
        outputs: list[dict[str, Any]] | None = None
        try:
            outputs = self._answers(batch)
        except OF_ONE_IMAGE as error:
            if len(batch) == 1:
                failure = _failure(error, batch[0].prediction.name, "predicted", on_error)
                return [replace(batch[0].prediction, error=failure, image=None)]
        if outputs is None:  # out of there, the error and the memory that it held are gone
            return [one for prepared in batch for one in self._run(on_error, [prepared])]
        return [
            replace(prepared.prediction, output=output)
            for prepared, output in zip(batch, outputs, strict=True)
        ]

    def _answers(self, batch: list[_Prepared]) -> list[dict[str, Any]]:
        """What the model gives; images that have failed before are batches of their own."""
        inputs = [prepared.inputs for prepared in batch if prepared.inputs is not None]
        if not inputs:
            return [{}] * len(batch)
        with self.clock.stage("model"):
            outputs: list[dict[str, Any]] = self.model(inputs)
        self.num_predicted += len(inputs)
        return outputs


def _failure(error: BaseException, name: str, what: str, on_error: OnError) -> DataError:
    """The error of an image, which names it; raised if that is wanted."""
    if not isinstance(error, DataError):
        failure = DataError(f"{name} cannot be {what} ({type(error).__name__}: {error})")
    elif name not in str(error):
        failure = type(error)(f"{name}: {error}")
    else:
        failure = error
    if on_error == "raise":
        raise failure from (None if failure is error else error)
    return failure


def _size_divisibility(model: nn.Module) -> int:
    """What the model pads the sides of its input to a multiple of; 1 if it does not."""
    for owner in (model, getattr(model, "backbone", None)):
        value: int = getattr(owner, "size_divisibility", 0)
        if value > 1:
            return value
    return 1


def _enumerated(
    images: Generator[NamedImage, None, None],
) -> Generator[tuple[int, NamedImage], None, None]:
    """As ``enumerate``, and closes the images when it is closed, for these may hold a file open."""
    with closing(images):
        yield from enumerate(images)
