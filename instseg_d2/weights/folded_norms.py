"""Batch norms whose statistics are folded into their scale and shift.

The ResNets of Caffe2 keep two numbers of a frozen batch norm, a scale and a shift, in which mean
and variance are contained; a model's own statistics are then to be 0 and 1, which they are at the
start. In any other file without statistics they are lost, and the model would compute something
else. The numbers do not show which it is, so that the kind of the file decides.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from instseg_d2.weights.file import Checkpoint, StateDict

_MEAN, _VARIANCE = "running_mean", "running_var"

_EPSILON = 1e-5
"""What batch norms add to the variance, which must then be 1."""


def norms_are_folded(checkpoint: Checkpoint, kind: str) -> bool:
    """Whether the batch norms in a file lack statistics because they are folded.

    That is believed of Caffe2's files and of pickles that ask for names to be matched by their
    ends, as Detectron2's files from Caffe2 do, if they have not a single statistic.

    Args:
        checkpoint: as read from the file.
        kind: see :func:`instseg_d2.weights.file.file_kind`.
    """
    if any(name.endswith((_MEAN, _VARIANCE, "_rm", "_riv")) for name in checkpoint["model"]):
        return False
    from_detectron2 = kind == ".pkl" and bool(checkpoint.get("matching_heuristics"))
    return checkpoint.get("__author__") == "Caffe2" or from_detectron2


def folded_statistics(missing: Iterable[str], loaded: Iterable[str]) -> list[str]:
    """Of the names that a file lacks the statistics of norms of which it has scale and shift."""
    folded, names = [], set(loaded)
    for name in missing:
        norm, _, last = name.rpartition(".")
        if last in (_MEAN, _VARIANCE) and {f"{norm}.weight", f"{norm}.bias"} <= names:
            folded.append(name)
    return folded


def with_statistics(blobs: StateDict) -> StateDict:
    """Add to the blobs of Caffe2 the mean 0 and the variance 1 of each folded batch norm.

    Args:
        blobs: under the names of Caffe2. Not changed.
    """
    result = dict(blobs)
    for name, scale in blobs.items():
        norm = name.removesuffix("_s")
        known = (f"{norm}_{_MEAN}", f"{norm}_{_VARIANCE}", f"{norm}_rm", f"{norm}_riv")
        if name.endswith("_bn_s") and not any(other in blobs for other in known):
            result[f"{norm}_{_MEAN}"] = torch.zeros_like(scale)
            result[f"{norm}_{_VARIANCE}"] = torch.ones_like(scale) - _EPSILON
    return result
