"""From a dict of tensors to a weights file, whole or not at all."""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from instseg_d2.atomic_file import written_whole
from instseg_d2.errors import WeightsError
from instseg_d2.weights.file import StateDict

NUMPY_FLOATS = (torch.float16, torch.float32, torch.float64)
"""Of the floating-point types those that NumPy has, and so a ``.pkl``."""


def write_weights_file(
    path: str,
    state: Mapping[str, torch.Tensor],
    extras: Mapping[str, Any] | None = None,
    *,
    is_plain: bool = False,
) -> None:
    """Write weights, whole or not at all, in the format that the suffix names.

    Args:
        path: ends in one of :data:`SUFFIXES`: ``.safetensors``, ``.pth`` (a dict with the entry
            ``model``) or ``.pkl`` (arrays in the format of Detectron2's model zoo, with exact
            names). Its folder is made if need be.
        state: any device, any strides, also tensors that share memory. NumPy has no bfloat16 nor
            anything shorter, so that in a ``.pkl`` such tensors become float32.
        extras: entries of the checkpoint beside ``model``: any in a ``.pth``, in a ``.pkl``
            ``matching_heuristics`` alone; ``.safetensors`` has no place for them. What has no place
            is left out.
        is_plain: write the dict of weights itself into a ``.pth``, as torchvision does, without
            extras.

    Raises:
        WeightsError: another suffix.
    """
    write = _WRITERS.get(Path(path).suffix)
    if write is None:
        raise WeightsError(
            f"{path}: weights are written as {', '.join(SUFFIXES)}; give a name that ends so."
        )
    # Copies, because safetensors takes no tensors that share memory or have gaps, and elsewhere a
    # view would be saved with all that it is a view of. The same kind of dict, because an
    # OrderedDict may have the attribute _metadata.
    copies = copy.copy(dict(state) if not isinstance(state, dict) else state)
    for name, value in copies.items():
        copies[name] = value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    write(path, copies, dict(extras or {}), is_plain)


def _write_torch(path: str, state: StateDict, extras: dict[str, Any], is_plain: bool) -> None:
    with written_whole(path) as file:
        torch.save(state if is_plain else {"model": state, **extras}, file)


def _write_safetensors(path: str, state: StateDict, extras: dict[str, Any], is_plain: bool) -> None:
    with written_whole(path) as file:
        # The note by which other readers know whose tensors these are.
        file.write(safetensors.torch.save(state, {"format": "pt"}))


def _write_pickle(path: str, state: StateDict, extras: dict[str, Any], is_plain: bool) -> None:
    model = {
        name: (
            value.float()
            if value.is_floating_point() and value.dtype not in NUMPY_FLOATS
            else value
        ).numpy()
        for name, value in state.items()
    }
    content = {
        "model": model,
        "__author__": "instseg-d2",
        "matching_heuristics": bool(extras.get("matching_heuristics")),
    }
    with written_whole(path) as file:
        pickle.dump(content, file)


_WRITERS: dict[str, Callable[[str, StateDict, dict[str, Any], bool], None]] = {
    ".safetensors": _write_safetensors,
    ".pth": _write_torch,
    ".pkl": _write_pickle,
}

SUFFIXES = tuple(_WRITERS)
"""Of the files that can be written; each is a format."""
