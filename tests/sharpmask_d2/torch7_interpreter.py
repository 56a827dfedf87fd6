"""Computes what modules of Torch7 compute, straight from what their file says, in double precision.

It shares nothing with the networks here: what they give is compared with it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from instseg_d2.weights.torch7 import TorchObject


def run(module: TorchObject, x: Any) -> Any:
    """Forward, in evaluation mode; a list is Torch7's table."""
    name = module.class_name.split(".")[-1]
    return _FORWARD[name](module.fields, x)


def run_model(model: TorchObject, images: Tensor) -> dict[str, Tensor]:
    """The encoding, the mask branch's logits, the score's and, of a SharpMask, the sharp logits."""
    fields = model.fields
    features = {0: images.double()}
    for number, module in enumerate(_modules(fields["trunk"].fields), start=1):
        features[number] = run(module, features[number - 1])
    encoding = features[max(features)]
    branch = fields.get("maskBranch") or fields["maskBranchDM"]
    outputs = {
        "encoding": encoding,
        "coarse": run(branch, encoding),
        "score": run(fields["scoreBranch"], encoding),
    }
    if "refs" in fields:
        state = run(fields["refs"][0], encoding)
        state = state.reshape(len(images), int(fields["km"]), int(fields["fSz"]), -1)
        for number, position in sorted(fields["skpos"].items()):
            skip = features[int(position)]
            state = run(fields["refs"][number], [skip, state])
        outputs["sharp"] = state
    return outputs


def _tensor(fields: dict, name: str) -> Tensor:
    return torch.from_numpy(np.array(fields[name], np.float64))


def _modules(fields: dict) -> list[TorchObject]:
    return [fields["modules"][number] for number in range(1, 1 + len(fields["modules"]))]


def _sequential(fields: dict, x: Any) -> Any:
    for module in _modules(fields):
        x = run(module, x)
    return x


def _convolution(fields: dict, x: Tensor) -> Tensor:
    sizes = (int(fields[name]) for name in ("nOutputPlane", "nInputPlane", "kH", "kW"))
    weight = _tensor(fields, "weight").reshape(*sizes)
    bias = _tensor(fields, "bias") if "bias" in fields else None
    stride = int(fields["dH"]), int(fields["dW"])
    padding = int(fields["padH"]), int(fields["padW"])
    return F.conv2d(x, weight, bias, stride, padding)


def _affine(fields: dict, x: Tensor) -> Tensor:
    scale, shift = (_tensor(fields, name).reshape(1, -1, 1, 1) for name in "ab")
    return scale * x + shift


def _batch_norm(fields: dict, x: Tensor) -> Tensor:
    mean, variance, weight, bias = (
        _tensor(fields, name).reshape(1, -1, 1, 1)
        for name in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / torch.sqrt(variance + fields["eps"]) * weight + bias


def _threshold(fields: dict, x: Tensor) -> Tensor:
    return torch.where(x > fields["threshold"], x, fields["val"])


def _pooling(fields: dict, x: Tensor) -> Tensor:
    return F.max_pool2d(x, int(fields["kW"]), int(fields["dW"]), int(fields["padW"]))


def _mirror(mode: str) -> Any:
    def forward(fields: dict, x: Tensor) -> Tensor:
        top, bottom, left, right = (int(fields[f"pad_{side}"]) for side in "tblr")
        widths = ((0, 0), (0, 0), (top, bottom), (left, right))
        return torch.from_numpy(np.pad(x.numpy(), widths, mode=mode))

    return forward


def _zeros(fields: dict, x: Tensor) -> Tensor:
    return F.pad(x, [int(fields[f"pad_{side}"]) for side in "lrtb"])


def _view(fields: dict, x: Tensor) -> Tensor:
    return x.reshape(len(x), *fields["size"][1:].tolist())


def _resampling(fields: dict, x: Tensor) -> Tensor:
    size = int(fields["oheight"]), int(fields["owidth"])
    return F.interpolate(x[:, None], size, mode="bilinear", align_corners=True)[:, 0]


def _nearest(fields: dict, x: Tensor) -> Tensor:
    factor = int(fields["scale_factor"])
    return x.repeat_interleave(factor, -1).repeat_interleave(factor, -2)


def _same(fields: dict, x: Any) -> Any:
    return x


_FORWARD = {
    "Sequential": _sequential,
    "ConcatTable": lambda fields, x: [run(module, x) for module in _modules(fields)],
    "ParallelTable": lambda fields, x: [
        run(module, part) for module, part in zip(_modules(fields), x, strict=True)
    ],
    "CAddTable": lambda fields, x: x[0] + x[1],
    "SpatialConvolution": _convolution,
    "Linear": lambda fields, x: F.linear(x, _tensor(fields, "weight"), _tensor(fields, "bias")),
    "ConstAffine": _affine,
    "SpatialConstDiagonal": _affine,
    "SpatialBatchNormalization": _batch_norm,
    "ReLU": lambda fields, x: x.relu(),
    "Threshold": _threshold,
    "SpatialMaxPooling": _pooling,
    "SpatialSymmetricPadding": _mirror("symmetric"),
    "SpatialReflectionPadding": _mirror("reflect"),
    "SpatialZeroPadding": _zeros,
    "SpatialUpSamplingNearest": _nearest,
    "SpatialReSamplingEx": _resampling,
    "View": _view,
    "Identity": _same,
    "Dropout": _same,
    "Copy": _same,
}
