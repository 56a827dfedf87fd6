"""From a weights file to a dict of tensors, without running code that the file brings along.

:func:`read_weights_file` tells the kind of a file by its first bytes, because suffixes lie: a file
of PyTorch, of safetensors, a plain pickle, or a file of Lua Torch7. What it returns is the
checkpoint as Detectron2 knows it:

    model                the weights: parameter name -> tensor
    matching_heuristics  optional; True: names are to be matched by their ends, not exactly
    __author__           optional; who wrote the file, "Caffe2" for Detectron's first generation
    advice               optional; what the user of these weights must know
    anything else        training state: optimizer, iteration, ...
"""

from __future__ import annotations

import logging
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import nn

from instseg_d2.errors import WeightsError, short_repr
from instseg_d2.weights.file_errors import cannot_be_read, damaged, refusal, why_unreadable
from instseg_d2.weights.repetition import repetition_problem
from instseg_d2.weights.safe_pickle import ADMITTED, ArrayUnpickler, RefusedError
from instseg_d2.weights.torch7 import STARTS as TORCH7_STARTS
from instseg_d2.weights.torch7_models import read_torch7_weights
from instseg_d2.weights.torch_guard import check_torch_file

Checkpoint = dict[str, Any]
StateDict = dict[str, torch.Tensor]

_TORCH_LEGACY_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
"""The number 0x1950a86a20f9469cfc6c, pickled: how torch.save began before it wrote zip files."""

_MAX_SAFETENSORS_HEADER = 100_000_000
"""Bytes; the format's own limit."""

_WEIGHTS_KEYS = ("model", "model_state", "state_dict")
"""Where checkpoints keep their weights: Detectron2 and many others, pycls, timm and Lightning."""

logger = logging.getLogger(__name__)


def read_weights_file(path: str, *, trust_file: bool = False) -> Checkpoint:
    """Read a checkpoint of PyTorch, a ``.safetensors`` file, a pickle of arrays, or a model that
    Lua Torch7 saved and that a family here knows.

    Args:
        path: an existing local file.
        trust_file: where the file cannot be read otherwise, read it with the code that it brings
            along.

    Returns:
        The checkpoint; see the head of this file. ``"model"`` holds only tensors.

    Raises:
        WeightsError: the file is damaged, is no weights file, or needs code of its own to be read.
    """
    checkpoint = _READERS[file_kind(path)](path, trust_file)
    checkpoint["model"] = _to_tensors(checkpoint["model"], path)
    if (reason := repetition_problem(checkpoint, os.path.getsize(path))) is not None:
        raise cannot_be_read(path, reason)
    return checkpoint


# -------------------------------------------------------------------------------- the formats


def file_kind(path: str) -> str:
    """``.pth``, ``.safetensors``, ``.pkl`` or ``.t7``: by the file's first bytes, else by its
    suffix."""
    with open(path, "rb") as file:
        start = file.read(32)
    if start.startswith(b"PK\x03\x04") or _TORCH_LEGACY_MAGIC in start:
        return ".pth"
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= _MAX_SAFETENSORS_HEADER:
        return ".safetensors"
    if start[:1] == b"\x80" and start[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        return ".pkl"  # the oldest two protocols have no mark
    if start.startswith(TORCH7_STARTS):
        return ".t7"
    suffix = Path(path).suffix
    return suffix if suffix in _READERS else ".pth"


def _read_torch(path: str, trust_file: bool) -> Checkpoint:
    """What torch.save wrote: weights under one of the usual keys, or nothing but weights."""
    content = _require_dict(_torch_load(path, trust_file), path)
    if Path(path).suffix == ".pyth" and "model_state" not in content:
        raise WeightsError(
            f"{path} has no entry 'model_state'. Files with the suffix .pyth are taken for "
            "checkpoints of pycls; rename it to .pth if it is another."
        )
    return _unwrap(content, path) or {"model": content}


def _read_safetensors(path: str, trust_file: bool) -> Checkpoint:
    """Nothing but weights; the text that the format can carry along is not used."""
    try:
        return {"model": safetensors.torch.load_file(path)}
    except Exception as error:  # damaged files raise errors of many types
        raise damaged(path, error) from error


def _read_pickle(path: str, trust_file: bool) -> Checkpoint:
    """A pickle of arrays: from Detectron2's model zoo, or from Caffe2 and the first Detectron."""
    content = _require_dict(_unpickle(path, trust_file), path)
    if checkpoint := _unwrap(content, path):
        return checkpoint
    blobs = _require_dict(content.get("blobs", content), path)
    model = {name: value for name, value in blobs.items() if not _ends_so(name, "_momentum")}
    checkpoint = {"model": model, "matching_heuristics": True}
    if not any(
        "." in name for name in model if isinstance(name, str)
    ):  # Caffe2's names are like res2_0_branch2a_w
        checkpoint["__author__"] = "Caffe2"
    return checkpoint


def _read_torch7(path: str, trust_file: bool) -> Checkpoint:
    """A model of Lua Torch7, under the names that it has here."""
    if (reason := why_unreadable(path)) is not None:
        raise cannot_be_read(path, reason)
    model, advice = read_torch7_weights(path)
    logger.info("%s: %s", path, advice)
    return {"model": model, "advice": advice}


_READERS: dict[str, Callable[[str, bool], Checkpoint]] = {
    ".pth": _read_torch,
    ".safetensors": _read_safetensors,
    ".pkl": _read_pickle,
    ".t7": _read_torch7,
}


def _unwrap(content: dict[str, Any], path: str) -> Checkpoint | None:
    """The checkpoint in a dict that has weights under one of the usual keys; None without one."""
    present = [key for key in _WEIGHTS_KEYS if key in content]
    # {"model": "resnet50", "state_dict": {...}} has one name and one set of weights.
    present.sort(key=lambda key: not isinstance(content[key], dict | nn.Module))
    if not present:
        return None
    weights = _require_dict(content[present[0]], path)
    if present[0] == "model":
        return {**content, "model": weights}
    if present[0] == "state_dict":
        return {"model": weights}
    # Batches are counted under names that Detectron2's matching would stumble over.
    counter = "num_batches_tracked"
    model = {name: value for name, value in weights.items() if not _ends_so(name, counter)}
    return {"model": model, "__author__": "pycls", "matching_heuristics": True}


def _ends_so(name: Any, end: str) -> bool:
    return isinstance(name, str) and name.endswith(end)


# ------------------------------------------------------------------------ unpickling with care


def _unpickle(path: str, trust_file: bool) -> Any:
    with open(path, "rb") as file:
        try:
            return ArrayUnpickler(file).load()
        except RefusedError as error:
            refused = f"it holds '{error.what}'"
            if not trust_file:
                raise refusal(path, refused) from error
        except Exception as error:  # damaged pickles raise errors of many types
            raise damaged(path, error) from error
        file.seek(0)
        return _load_with_code(path, refused, lambda: pickle.load(file, encoding="latin1"))


def _torch_load(path: str, trust_file: bool) -> Any:
    # PyTorch's own care is for its own types; of NumPy's it admits none.
    of_numpy: list[Any] = [(stand_in, name) for name, stand_in in ADMITTED.items()]
    try:
        if not trust_file:
            check_torch_file(path)
        with torch.serialization.safe_globals(of_numpy):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise errors of many types
        refused = _refused_by_torch(error)
        if refused is None or why_unreadable(path) is not None:
            raise damaged(path, error) from error
        if not trust_file:
            raise refusal(path, refused) from error
    return _load_with_code(
        path, refused, lambda: torch.load(path, map_location="cpu", weights_only=False)
    )


def _refused_by_torch(error: Exception) -> str | None:
    """What a file holds or is that PyTorch reads only with its code; None for another error."""
    if isinstance(error, RefusedError):
        return f"it holds '{error.what}'"
    if found := re.search(r"GLOBAL (\w[\w.]*)", str(error)):
        return f"it holds '{found.group(1)}'"
    # Two formats, each in a sentence of its own.
    if "weights_only=True`` with TorchScript" in str(error):
        return "it holds a TorchScript program"
    if "legacy .tar format" in str(error):
        return "it is a .tar archive, as PyTorch's first versions wrote them"
    return None


def _load_with_code(path: str, refused: str, load: Callable[[], Any]) -> Any:
    logger.warning("%s: %s; read with its code, because the file is to be trusted", path, refused)
    try:
        return load()
    except (ImportError, AttributeError) as error:
        raise WeightsError(
            f"{path} needs something that is not installed here ({error}). Install it, or save "
            "the file's dict of weights anew where it is."
        ) from error
    except Exception as error:  # from damage, or from the file's own code
        raise damaged(path, error) from error


# ------------------------------------------------------------------------------------- tensors


def _require_dict(content: Any, path: str) -> dict[str, Any]:
    if isinstance(content, nn.Module):  # a whole model; possible in a trusted file only
        return content.state_dict()
    if not isinstance(content, dict):
        raise WeightsError(
            f"{path} holds a {type(content).__name__}, expected a dict of weights by name."
        )
    return content


def _to_tensors(model: Any, path: str) -> StateDict:
    """Check that all are numbers, and turn arrays into tensors, in place.

    In place, because the dict may be an ``OrderedDict`` with the attribute ``_metadata``, by which
    modules tell old versions.
    """
    for name, value in _require_dict(model, path).items():
        if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
            model[name] = value = _to_tensor(value)
        if not isinstance(value, torch.Tensor) or not isinstance(name, str):
            keys = ", ".join(short_repr(key) for key in list(model)[:5])
            found = "array" if isinstance(value, np.ndarray) else type(value).__name__
            raise WeightsError(
                f"{path} is no dict of weights: its entry {short_repr(name)} is a {found}, "
                f"expected a tensor of numbers. Its first entries are {keys}."
            )
        _require_plain(name, value, path)
    return model


def _require_plain(name: str, value: torch.Tensor, path: str) -> None:
    """Raise :class:`WeightsError` for tensors that are more or less than an array of numbers."""
    if value.is_meta:
        raise WeightsError(
            f"{path}: its tensor '{name}' has a shape, but no values (it is on PyTorch's device "
            "'meta'): the model was saved before its weights were loaded."
        )
    if value.is_quantized or value.is_nested or value.layout != torch.strided:
        kind = "quantized" if value.is_quantized else "nested" if value.is_nested else "sparse"
        raise WeightsError(
            f"{path}: its tensor '{name}' is {kind} ({value.dtype}, {value.layout}), but the "
            "models here need plain ones. Save it anew with plain tensors (such as "
            "value.to_dense() or value.dequantize())."
        )


def _to_tensor(array: np.ndarray) -> torch.Tensor | np.ndarray:
    """The array as a tensor; the array itself if PyTorch has no such type."""
    try:  # tensors have the byte order of the machine, and can be written to
        native = array.astype(array.dtype.newbyteorder("="), copy=False)
        return torch.from_numpy(np.require(native, requirements="W"))
    except TypeError:
        return array
