"""Whether the numbers in a weights file are of the kind that the model needs."""

import logging
from collections import Counter

import torch

from instseg_d2.errors import WeightsError
from instseg_d2.weights.file import StateDict

logger = logging.getLogger(__name__)


def check_values(file_state: StateDict, model_state: StateDict) -> None:
    """Look at the tensors that are about to be loaded.

    Another precision (half, bfloat16, double) is converted on loading and only noted; numbers that
    are NaN or infinite are warned of.

    Args:
        file_state: weights under the names in the model. Those that the model lacks or has in
            another shape do not matter.
        model_state: the model's ``state_dict()``.

    Raises:
        WeightsError: integers where the model has floating-point numbers, or the like.
    """
    converted: Counter[tuple[torch.dtype, torch.dtype]] = Counter()
    not_finite = []
    for name, value in file_state.items():
        ours = model_state.get(name)
        if ours is None or ours.shape != value.shape or name.endswith("num_batches_tracked"):
            continue
        if _kind(value.dtype) != _kind(ours.dtype):
            raise WeightsError(
                f"its tensor '{name}' is of {_kind(value.dtype)} numbers ({value.dtype}), but the "
                f"model needs {_kind(ours.dtype)} numbers ({ours.dtype}), and conversion would not "
                "keep their meaning. Give the file as it was before it was quantised or converted."
            )
        if value.dtype != ours.dtype:
            converted[value.dtype, ours.dtype] += 1
        if not is_finite(value):
            not_finite.append(name)
    for (theirs, needed), count in converted.items():
        logger.info("Converting %d tensors of the file from %s to %s", count, theirs, needed)
    if not_finite:
        logger.warning(
            "%d tensors of the file hold NaN or infinite numbers, the first is '%s': the training "
            "that they come from has diverged, or the file was changed",
            len(not_finite),
            not_finite[0],
        )


def is_finite(value: torch.Tensor) -> bool:
    """Whether none of the numbers is NaN or infinite."""
    if value.element_size() == 1:  # PyTorch cannot tell for its shortest floats
        value = value.float()
    # Only finite numbers have a finite sum; one that is not may also come from large numbers.
    return bool(value.sum().isfinite()) or bool(value.isfinite().all())


def _kind(dtype: torch.dtype) -> str:
    if dtype.is_floating_point:
        return "floating-point"
    return "complex" if dtype.is_complex else "integer"
