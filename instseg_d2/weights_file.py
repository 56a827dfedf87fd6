"""From a weights file to a dict of tensors, without running code that the file brings along.

:func:`read_weights_file` picks the reader by the file's suffix. A reader returns the checkpoint as
Detectron2 knows it:

    model                the weights: parameter name -> tensor
    matching_heuristics  optional; True: names are to be matched by their ends, not exactly
    __author__           optional; who wrote the file, "Caffe2" for Detectron's first generation
    anything else        training state: optimizer, iteration, ...
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from instseg_d2.errors import WeightsError

Checkpoint = dict[str, Any]

_ADMITTED_IN_PICKLES = {
    ("_codecs", "encode"),  # Python 3 writes bytes so in the old protocols
    ("builtins", "bytearray"),
    ("builtins", "complex"),
    ("builtins", "set"),
    ("collections", "OrderedDict"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    *(
        (f"numpy.{core}.{module}", name)
        for core in ("core", "_core")
        for module, name in (
            ("multiarray", "_reconstruct"),
            ("multiarray", "scalar"),
            ("numeric", "_frombuffer"),
        )
    ),
}


def read_weights_file(path: str) -> Checkpoint:
    """Read a ``.pth`` (any suffix that is not listed here), ``.pkl`` or ``.pyth`` file.

    Args:
        path: an existing local file.

    Returns:
        The checkpoint; see the head of this file. ``"model"`` holds only tensors.

    Raises:
        WeightsError: the file is damaged, is no weights file, or needs code of its own to be read.
    """
    read = _READERS.get(Path(path).suffix, _read_pth)
    checkpoint = read(path)
    checkpoint["model"] = _to_tensors(checkpoint["model"], path)
    return checkpoint


def _read_pth(path: str) -> Checkpoint:
    """A PyTorch checkpoint: weights under ``model`` or ``state_dict``, or nothing but weights."""
    content = _torch_load(path)
    if "model" in content:
        return content
    if "state_dict" in content:
        return {"model": content["state_dict"]}
    return {"model": content}


def _read_pyth(path: str) -> Checkpoint:
    """A checkpoint of pycls."""
    content = _torch_load(path)
    if "model_state" not in content:
        raise WeightsError(
            f"{path} has no entry 'model_state'. Files with the suffix .pyth are taken for "
            "checkpoints of pycls; rename it to .pth if it is another."
        )
    model = {
        name: value
        for name, value in content["model_state"].items()
        if not name.endswith("num_batches_tracked")
    }
    return {"model": model, "__author__": "pycls", "matching_heuristics": True}


def _read_pkl(path: str) -> Checkpoint:
    """A pickle of arrays: from Detectron2's model zoo, or from Caffe2 and the first Detectron."""
    try:
        with open(path, "rb") as file:
            content = _ArrayUnpickler(file, encoding="latin1").load()
    except WeightsError as error:
        raise WeightsError(f"{path} {error}") from error
    except Exception as error:  # damaged pickles raise errors of many types
        raise _damaged(path, error) from error
    content = _require_dict(content, path)
    if "model" in content and "__author__" in content:
        return content
    blobs = _require_dict(content.get("blobs", content), path)
    model = {name: value for name, value in blobs.items() if not name.endswith("_momentum")}
    return {"model": model, "__author__": "Caffe2", "matching_heuristics": True}


_READERS: dict[str, Callable[[str], Checkpoint]] = {".pkl": _read_pkl, ".pyth": _read_pyth}


class _ArrayUnpickler(pickle.Unpickler):
    """Builds NumPy arrays and plain containers, and nothing else that a pickle may ask for."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED_IN_PICKLES:
            raise WeightsError(_refusal(f"{module}.{name}"))
        return super().find_class(module, name)


def _torch_load(path: str) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise errors of many types
        # torch names what it does not admit as "Unsupported global: GLOBAL package.module.name".
        refused = re.search(r"GLOBAL (\w[\w.]*)", str(error))
        if refused:
            raise WeightsError(f"{path} {_refusal(refused.group(1))}") from error
        raise _damaged(path, error) from error
    return _require_dict(content, path)


def _refusal(name: str) -> str:
    return (
        f"is refused: it holds '{name}'. Only numbers, text and plain containers are read, because "
        "reading other things can run code of the file's author. If you trust the file, load it "
        "with torch.load(..., weights_only=False) or pickle, and save its dict of weights anew."
    )


def _damaged(path: str, error: Exception) -> WeightsError:
    """The error for a file that cannot be read, with the likely reason."""
    with open(path, "rb") as file:
        start = file.read(64)
    if not start:
        reason = "the file is empty"
    elif start.lstrip().startswith(b"<"):
        reason = "it is a web page, perhaps the one in front of the download"
    elif start.startswith(b"version https://git-lfs"):
        reason = "it is a Git LFS pointer; run `git lfs pull`"
    else:
        # Of torch's long messages only the core: the rest advises what would be unsafe here.
        core = str(error).split("WeightsUnpickler error:")[-1].strip().split("\n")[0].split(". ")[0]
        reason = f"damaged, incomplete or of another kind ({type(error).__name__}: {core})"
    return WeightsError(f"{path} cannot be read as weights: {reason}. Fetch or copy it again.")


def _require_dict(content: Any, path: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise WeightsError(
            f"{path} holds a {type(content).__name__}, expected a dict of weights by name."
        )
    return content


def _to_tensors(model: Any, path: str) -> dict[str, torch.Tensor]:
    """Check that all are numbers, and turn arrays into tensors, in place.

    In place, because the dict may be an ``OrderedDict`` with the attribute ``_metadata``, by which
    modules tell old versions.
    """
    for name, value in _require_dict(model, path).items():
        if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
            model[name] = value = torch.from_numpy(value)
        if not isinstance(value, torch.Tensor) or not isinstance(name, str):
            keys = ", ".join(repr(key) for key in list(model)[:5])
            raise WeightsError(
                f"{path} is no dict of weights: its entry {name!r} is a {type(value).__name__}, "
                f"expected a tensor. Its first entries are {keys}."
            )
    return model
