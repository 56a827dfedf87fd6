"""A model's proposals for one image after the other, or why there are none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.data import build_detection_test_loader
from torch import nn

from ..errors import ConfigError, NonFiniteError, UserError
from .image_proposals import ImageProposals, proposals_of_instances

Record = dict[str, Any]
"""An image in Detectron2's data set format."""

Mapper = Callable[[Record], dict[str, Any]]
"""A record -> what the model reads."""


@dataclass(frozen=True)
class Failure:
    """An image that could not be worked on.

    Attributes:
        message: what is wrong, and with which image.
        model_at_fault: it answered with infinite values or NaN.
    """

    message: str
    model_at_fault: bool = False


class _Guarded:
    """A mapper that returns what goes wrong: raising it would end a loader's worker's work."""

    def __init__(self, mapper: Mapper) -> None:
        self._mapper = mapper

    def __call__(self, record: Record) -> dict[str, Any] | Failure:
        try:
            return self._mapper(record)
        except UserError as error:
            return Failure(str(error))
        except Exception as error:  # the image libraries raise errors of many types
            return Failure(f"{label(record)} cannot be read ({type(error).__name__}: {error})")


def label(record: Record) -> str:
    """An image, for messages."""
    return f"image {record.get('file_name')} (image id {record.get('image_id')})"


def outcomes(
    model: nn.Module,
    records: Sequence[Record],
    mapper: Mapper,
    *,
    masks: bool | None = None,
    num_workers: int = 0,
) -> Iterator[ImageProposals | Failure]:
    """What comes of each image, in their order.

    Args:
        model: in eval mode; see :func:`answer`.
        records: of the images; at least one.
        mapper: makes of each what the model reads.
        masks: see :func:`answer`.
        num_workers: processes that read images; 0: this one.

    Raises:
        ConfigError: see :func:`answer`.
    """
    # Annotations are not needed, and can be large.
    images = [
        {key: value for key, value in record.items() if key != "annotations"} for record in records
    ]
    loader = build_detection_test_loader(images, mapper=_Guarded(mapper), num_workers=num_workers)
    for record, [inputs] in zip(images, loader, strict=True):
        yield inputs if isinstance(inputs, Failure) else _outcome(model, record, inputs, masks)


def _outcome(
    model: nn.Module, record: Record, inputs: dict[str, Any], masks: bool | None
) -> ImageProposals | Failure:
    try:
        return answer(model, record["image_id"], inputs, masks=masks)
    except ConfigError:
        raise
    except UserError as error:
        text = str(error)
        message = text if record["file_name"] in text else f"{label(record)}: {text}"
        return Failure(message, model_at_fault=isinstance(error, NonFiniteError))
    except (MemoryError, torch.cuda.OutOfMemoryError) as error:
        height, width = inputs["image"].shape[-2:]
        return Failure(
            f"{label(record)}: not enough memory for {width} x {height} pixels "
            f"({next(iter(str(error).splitlines()), 'MemoryError')})"
        )
    except Exception as error:  # a mistake in the program: where is half the answer
        raise RuntimeError(f"the model failed on {label(record)}") from error


@torch.no_grad()
def answer(
    model: nn.Module, image_id: int | str, inputs: dict[str, Any], *, masks: bool | None = None
) -> ImageProposals:
    """The proposals of one image.

    Args:
        model: answers ``[{"proposals": Instances}]``, with ``proposal_boxes`` and
            ``objectness_logits``; for masks also ``pred_masks``, which are ``RLEMasks``.
        inputs: what it reads.
        masks: keep the masks: True, False, or None for yes if there are some.

    Raises:
        ConfigError: there are no proposals in the answer, or no masks, although True.
        NonFiniteError: a value is infinite or not a number.
    """
    answers = model([inputs])
    if not isinstance(answers, list) or "proposals" not in answers[0]:
        raise ConfigError(
            f"MODEL.META_ARCHITECTURE {type(model).__name__} does not answer with proposals; "
            "DeepMask, SharpMask and Detectron2's ProposalNetwork do"
        )
    instances = answers[0]["proposals"]
    has_masks = instances.has("pred_masks")
    if masks and not has_masks:
        raise ConfigError(
            f"--masks was given, but MODEL.META_ARCHITECTURE {type(model).__name__} makes boxes "
            "alone; give --no-masks"
        )
    if has_masks and masks is False:
        instances.remove("pred_masks")
    return proposals_of_instances(image_id, instances)
