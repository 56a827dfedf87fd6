"""Tensors that show the numbers of a small file over and over."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

MAX_REPETITION = 8
"""Tensors may share their numbers; all tensors are together at most so many times as large as the
file, and a gigabyte, as a file may hold one number in place of each tensor."""

_SMALL = 1 << 30


def repetition_problem(checkpoint: dict[str, Any], stored: int) -> str | None:
    """Why copies of the tensors would fill the memory, or None.

    Args:
        checkpoint: may hold containers of tensors and arrays, also itself.
        stored: bytes of the file.
    """
    left = MAX_REPETITION * stored + _SMALL
    waiting: list[Any] = [checkpoint]
    seen: set[int] = set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, torch.Tensor | np.ndarray):
            left -= math.prod(value.shape) * value.itemsize
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            waiting += value.values() if isinstance(value, dict) else value
        if left < 0:
            return (
                f"its tensors are more than {MAX_REPETITION} times as large as the file, whose "
                f"{stored} bytes they show over and over"
            )
    return None
