"""FAIR's DeepMask and SharpMask of 2016, saved by Lua Torch7, as the networks here.

A file (``model.t7``) is a table of the ``model`` and the ``config`` that it was trained with. The
model is an object of ``nn.DeepMask`` {trunk, maskBranch, scoreBranch, fSz} or ``nn.SharpMask``
{trunk, maskBranchDM, scoreBranch, refs, neths, netvs, km, ks, skpos, fSz}. The shapes are read from
its weights; what else tells them must agree.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from instseg_d2.errors import WeightsError
from instseg_d2.families import config_value
from instseg_d2.model_zoo import get_config
from instseg_d2.weights.torch7 import TorchObject

from .fair_cursor import Converted, Cursor
from .fair_layers import dissolve
from .fair_refinement import read_refinement
from .fair_trunk import Trunk, read_trunk

NODE = "MODEL.SHARP_MASK"
CONFIGS = {"DeepMask": "sharpmask/deepmask_r50", "SharpMask": "sharpmask/sharpmask_r50"}
_STEM = "backbone.stem.conv1"

Fields = Mapping[Any, Any]


def from_torch7(content: object) -> tuple[dict[str, Tensor], str] | None:
    """The weights of a :class:`~.deepmask.DeepMask` or :class:`~.sharpmask.SharpMask` (form
    "refactored", layout "released").

    Args:
        content: of a file, see :func:`~instseg_d2.weights.torch7.read_torch7`.

    Returns:
        float32 tensors by name, and what the user must know: the config, and its keys that the
        model needs other values of. None if the file holds no model of FAIR's DeepMask.

    Raises:
        WeightsError: it does, but one that cannot be converted; the message says where and why.
    """
    table = content if isinstance(content, dict) else {}
    model = table.get("model", content)
    kind = _kind(model)
    if kind is None:
        return None
    fields = model.fields if isinstance(model, TorchObject) else model
    config = table.get("config")
    converted, keys = convert_model(kind, fields, config if isinstance(config, dict) else {})
    return converted.state, _advice(kind, keys)


def convert_model(kind: str, fields: Fields, config: Fields) -> tuple[Converted, dict[str, Any]]:
    """The weights of a model, and the keys of the config that its layers depend on.

    Args:
        kind: a key of :data:`CONFIGS`.
        fields: of the model.
        config: what it was trained with.

    Raises:
        WeightsError: see :func:`from_torch7`.
    """
    converted = Converted()
    trunk = read_trunk(_branch(fields, "trunk"), converted)
    keys = {**trunk.keys, **_read_head(kind, fields, trunk, converted)}
    features = list(trunk.channels)
    if kind == "SharpMask":
        keys |= read_refinement(fields, trunk, converted)
        keys["MODEL.RESNETS.OUT_FEATURES"] = features
    else:
        keys["MODEL.RESNETS.OUT_FEATURES"] = features[-1:]
        if (size := _whole_number(config, "gSz")) is not None:
            keys[f"{NODE}.LOSS.MASK_SIZE"] = size
    _check_numbers("model", fields, trunk, keys)
    _check_numbers("config", config, trunk, keys)
    return converted, keys | _padding_keys(converted.paddings)


def _kind(model: object) -> str | None:
    """The key of :data:`CONFIGS` for a value of a file; None for none."""
    if isinstance(model, TorchObject):
        name = model.class_name.rpartition(".")[2]
        return name if name in CONFIGS else None
    if isinstance(model, dict) and {"trunk", "scoreBranch"} <= model.keys():
        return "SharpMask" if "refs" in model else "DeepMask"
    return None


def _branch(fields: Fields, *names: str) -> object:
    """The first of the modules of these names that the model has."""
    for name in names:
        if fields.get(name) is not None:
            return fields[name]
    present = ", ".join(sorted(repr(name)[:40] for name in fields)[:20])
    raise WeightsError(f"the model has no {names[0]}, only {present}: the file is not complete")


def _read_head(kind: str, fields: Fields, trunk: Trunk, converted: Converted) -> dict[str, Any]:
    names = ("maskBranchDM", "maskBranch") if kind == "SharpMask" else ("maskBranch",)
    cursor = Cursor(dissolve(_branch(fields, *names), names[0]), names[0])
    mask, bias = cursor.full(trunk.encoding_dim)
    converted.add("head.mask", mask[:, :, None, None], bias)
    if cursor.next_kind() == "bilinear":  # to the size of the training masks
        cursor.take("bilinear")
    cursor.end()
    side = math.isqrt(len(mask))
    if side**2 != len(mask):
        raise WeightsError(f"{names[0]} gives {len(mask)} numbers, which are no square mask")
    cursor = Cursor(dissolve(_branch(fields, "scoreBranch"), "scoreBranch"), "scoreBranch")
    first, bias = cursor.full(trunk.encoding_dim)
    converted.add("head.score.1", first[:, :, None, None], bias)
    cursor.relu()
    second, bias = cursor.full(len(first))
    converted.add("head.score.4", second[:, :, None, None], bias)
    cursor.end()
    if len(second) != 1:
        raise WeightsError(f"scoreBranch gives {len(second)} numbers, not one score")
    return {f"{NODE}.HEAD.SCORE_DIM": len(first), f"{NODE}.HEAD.MASK_SIZE": side}


def _check_numbers(where: str, numbers: Fields, trunk: Trunk, keys: Mapping[str, Any]) -> None:
    """See that the sizes that a table names are those of the weights."""
    mask_size = keys[f"{NODE}.HEAD.MASK_SIZE"]
    channels = keys.get(f"{NODE}.REFINEMENT.CHANNELS")
    known = {"fSz": trunk.cells, "oSz": mask_size, "km": channels, "ks": channels}
    for name, expected in known.items():
        found = _whole_number(numbers, name)
        if None not in (found, expected) and found != expected:
            raise WeightsError(f"the {where} has {name} {found}, but its weights say {expected}")
    window = _whole_number(numbers, "iSz")
    if window is not None and math.ceil(window / trunk.stride) != trunk.cells:
        raise WeightsError(
            f"the {where} has windows (iSz) of {window} pixels, but its weights are for "
            f"{trunk.cells * trunk.stride}"
        )


def _whole_number(numbers: Fields, name: str) -> int | None:
    value = numbers.get(name)
    return int(value) if isinstance(value, float) and 0 < value < 1e6 else None


def _padding_keys(paddings: Mapping[str, str]) -> dict[str, Any]:
    """How the first convolution and all others pad."""
    others = {mode: name for name, mode in paddings.items() if name != _STEM}
    if len(others) != 1:
        places = " and ".join(f"{name} ({mode})" for mode, name in sorted(others.items()))
        raise WeightsError(f"the convolutions here pad in one way, but these in several: {places}")
    (mode,) = others
    stem = paddings[_STEM]
    return {f"{NODE}.PADDING": mode, f"{NODE}.STEM_PADDING": "" if stem == mode else stem}


def _advice(kind: str, keys: Mapping[str, Any]) -> str:
    name = CONFIGS[kind]
    cfg = get_config(name)
    different = {k: v for k, v in keys.items() if _plain(config_value(cfg, k)) != _plain(v)}
    overrides = " ".join(
        f"{key} {shlex.quote(str(value).replace(' ', ''))}" for key, value in different.items()
    )
    layer = "first 1x1" if keys["MODEL.RESNETS.STRIDE_IN_1X1"] else "3x3"
    text = (
        f"FAIR's {kind}, of the config {name}"
        f"{f' with {overrides}' if overrides else ''}. Its bottlenecks have their stride in the "
        f"{layer} convolution (MODEL.RESNETS.STRIDE_IN_1X1 "
        f"{keys['MODEL.RESNETS.STRIDE_IN_1X1']}), which no shape shows."
    )
    return text


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple | list) else value
