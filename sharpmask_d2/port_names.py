"""What the PyTorch port of DeepMask and SharpMask calls its parameters, and what they are here.

The port keeps torchvision's ResNet-50 in an ``nn.Sequential`` and registers the layers of the
refinement twice: in ``neths`` and ``netvs``, and again in ``refs``. Its networks are ours with
``PADDING`` reflect, ``STEM_PADDING`` symmetric and ``REFINEMENT.HORIZONTAL_CHANNELS``
(64, 64, 64, 64) under ``MODEL.SHARP_MASK``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from instseg_d2.errors import WeightsError

#: Without these a file is something else.
REQUIRED = ("trunk.0.0.1.weight", "trunk.1.2.weight", "scoreBranch.4.weight")

#: Layers of a skip's Sequential, where the cropping of the context is no module of the first.
_SKIP_LAYERS = {1: "skip.0", 4: "skip.2", 7: "skip_out"}
_VERTICAL_LAYERS = {1: "vertical.0", 4: "vertical_out"}

Match = re.Match[str]
#: Pattern of a whole name -> our name; None where no layer has that number.
_RULES: tuple[tuple[str, Callable[[Match], str | None]], ...] = (
    (r"trunk\.0\.0\.1\.weight", lambda m: "backbone.stem.conv1.weight"),
    (r"trunk\.0\.1\.(\w+)", lambda m: f"backbone.stem.conv1.norm.{m[1]}"),
    (
        r"trunk\.0\.([456])\.(\d+)\.conv(?:([13])|(2)\.1)\.weight",
        lambda m: f"{_block(m)}.conv{m[3] or m[4]}.weight",
    ),
    (
        r"trunk\.0\.([456])\.(\d+)\.bn([123])\.(\w+)",
        lambda m: f"{_block(m)}.conv{m[3]}.norm.{m[4]}",
    ),
    (
        r"trunk\.0\.([456])\.(\d+)\.downsample\.0\.weight",
        lambda m: f"{_block(m)}.shortcut.weight",
    ),
    (
        r"trunk\.0\.([456])\.(\d+)\.downsample\.1\.(\w+)",
        lambda m: f"{_block(m)}.shortcut.norm.{m[3]}",
    ),
    (r"trunk\.1\.0\.(weight|bias)", lambda m: f"head.reduce.0.{m[1]}"),
    (r"trunk\.1\.2\.(weight|bias)", lambda m: f"head.encode.{m[1]}"),
    (r"maskBranch(?:DM)?\.0\.0\.(weight|bias)", lambda m: f"head.mask.{m[1]}"),
    (r"scoreBranch\.([14])\.(weight|bias)", lambda m: f"head.score.{m[1]}.{m[2]}"),
    (
        r"neths\.(\d+)\.(\d+)\.(weight|bias)",
        lambda m: _step(int(m[1]), _SKIP_LAYERS, int(m[2]) - (m[1] != "0"), m[3]),
    ),
    (r"(?:netvs|refs)\.0\.(weight|bias)", lambda m: f"refinement.project.{m[1]}"),
    (
        r"netvs\.([1-9]\d*)\.(\d+)\.(weight|bias)",
        lambda m: _step(int(m[1]) - 1, _VERTICAL_LAYERS, int(m[2]), m[3]),
    ),
    (
        r"refs\.([1-9]\d*)\.layer1\.(\d+)\.(weight|bias)",
        lambda m: _step(int(m[1]) - 1, _SKIP_LAYERS, int(m[2]) - (m[1] != "1"), m[3]),
    ),
    (
        r"refs\.([1-9]\d*)\.layer2\.(\d+)\.(weight|bias)",
        lambda m: _step(int(m[1]) - 1, _VERTICAL_LAYERS, int(m[2]), m[3]),
    ),
    (r"refs\.[1-9]\d*\.1\.(weight|bias)", lambda m: f"refinement.output.{m[1]}"),
)


def recognises(names: Iterable[str]) -> bool:
    """Whether these are the port's names, of a DeepMask or a SharpMask."""
    names = [name for name in names if not _is_counter(name)]
    return set(names).issuperset(REQUIRED) and all(our_name(name) for name in names)


def our_name(name: str) -> str | None:
    """The name here of what the port calls ``name``; None for a name that the port has not."""
    for pattern, translate in _RULES:
        match = re.fullmatch(pattern, name)
        if match:
            return translate(match)
    return None


def from_port(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The port's state dict as a :class:`~.deepmask.DeepMask` or :class:`~.sharpmask.SharpMask`
    (form "refactored", layout "released") has it.

    Args:
        state: not changed; tensors of the result may share its memory.

    Raises:
        WeightsError: names that the port has not, tensors that are to be one and differ, or a first
            layer of the refinement of another shape.
    """
    unknown = [name for name in state if not _is_counter(name) and our_name(name) is None]
    if unknown:
        raise WeightsError(
            f"{len(unknown)} of {len(state)} tensors have names that DeepMask's PyTorch port has "
            f"not, for example {', '.join(unknown[:3])}"
        )
    result: dict[str, Tensor] = {}
    origins: dict[str, str] = {}
    for name, value in state.items():
        if _is_counter(name):
            continue
        ours = our_name(name)
        assert ours is not None
        if ours in result and not torch.equal(value, result[ours]):
            raise WeightsError(
                f"the tensors {origins[ours]} and {name} are one in DeepMask's PyTorch port, but "
                "differ here: the file is damaged"
            )
        result[ours], origins[ours] = value, name
    return _with_linear_start(result)


def _with_linear_start(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The port's M_1 is a transposed convolution of one cell; ours a linear layer.

    Weight (D, k, c, c) -> (k * c * c, D); bias (k,) -> (k * c * c,).
    """
    weight, bias = (state.get(f"refinement.project.{kind}") for kind in ("weight", "bias"))
    if weight is None and bias is None:
        return state
    if weight is None or bias is None or weight.dim() != 4 or weight.shape[1:2] != bias.shape:
        shapes = [None if value is None else tuple(value.shape) for value in (weight, bias)]
        raise WeightsError(
            "netvs.0.weight and netvs.0.bias of DeepMask's PyTorch port are wanted of shapes like "
            f"(512, 32, 10, 10) and (32,); the file has {shapes[0]} and {shapes[1]}"
        )
    return {
        **state,
        "refinement.project.weight": weight.flatten(1).T.contiguous(),
        "refinement.project.bias": bias.repeat_interleave(weight[0, 0].numel()),
    }


def _is_counter(name: str) -> bool:
    return name.endswith(".num_batches_tracked")


def _block(match: Match) -> str:
    """torchvision's layer1 is the Sequential's module 4."""
    return f"backbone.res{int(match[1]) - 2}.{match[2]}"


def _step(index: int, layers: Mapping[int, str], layer: int, kind: str) -> str | None:
    name = layers.get(layer)
    return name and f"refinement.steps.{index}.{name}.{kind}"
