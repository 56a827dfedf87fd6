"""The layers of a Torch7 network, in the order in which they compute.

How FAIR's modules nest differs from file to file: a padded convolution may be a Sequential of its
own, a single layer may stand without one. So containers are dissolved, and what does nothing in
inference (dropout, a change of shape) is left out. What remains, :mod:`.fair_cursor` reads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from instseg_d2.errors import WeightsError
from instseg_d2.weights.torch7 import TorchObject

MAX_MODULES = 10_000
"""Of one part; ResNet-152 has some 1000. A forged file can nest a few modules to any number."""

MAX_DEPTH = 50
"""Of modules within modules; one that contains itself has no end."""

_NOTHING = "nothing"
_KINDS = {
    "Sequential": "sequential",
    "ConcatTable": "branches",
    "ParallelTable": "branches",
    "CAddTable": "sum",
    "SpatialConvolution": "convolution",
    "SpatialConvolutionMM": "convolution",
    "Linear": "linear",
    "ConstAffine": "affine",
    "SpatialConstDiagonal": "affine",
    "SpatialBatchNormalization": "norm",
    "ReLU": "ReLU",
    "Threshold": "ReLU",
    "SpatialMaxPooling": "max-pooling",
    "SpatialSymmetricPadding": "symmetric",
    "SpatialReflectionPadding": "reflect",
    "SpatialZeroPadding": "zeros",
    "SpatialUpSamplingNearest": "nearest",
    "SpatialUpSamplingBilinear": "bilinear",
    "SpatialReSampling": "bilinear",
    "SpatialReSamplingEx": "bilinear",
    "Identity": _NOTHING,
    "Dropout": _NOTHING,
    "SpatialDropout": _NOTHING,
    "View": _NOTHING,
    "Reshape": _NOTHING,
    "Copy": _NOTHING,
    "Contiguous": _NOTHING,
}
"""Class without its package (``nn``, ``cudnn``, ``inn``) -> what it does."""

PADDINGS = ("symmetric", "reflect", "zeros")
_PACKAGES = ("nn", "cudnn", "inn")


@dataclass(frozen=True, eq=False)
class Layer:
    """A module that computes something.

    Attributes:
        kind: a value of ``_KINDS``; "crop" for padding by less than nothing.
        where: in the model, such as "trunk[5][1]".
        branches: the layers of each branch, if it has some.
    """

    kind: str
    where: str
    module: TorchObject
    branches: tuple[tuple[Layer, ...], ...] = ()

    def refuse(self, text: str) -> NoReturn:
        """Raise a :class:`WeightsError` that begins with the place and the class."""
        raise WeightsError(f"{self.where} ({self.module.class_name}): {text}")

    def number(self, name: str, default: int | None = None) -> int:
        """A whole number among the fields; without a default it must be there."""
        value = self.module.fields.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.refuse(f"its field {name} must be a number, but is {in_words(value)}")
        if not math.isfinite(value) or value != int(value):
            self.refuse(f"its field {name} must be a whole number, but is {value}")
        return int(value)

    def same(self, *names: str, default: int | None = None) -> int:
        """The one value of several fields."""
        values = {self.number(name, default) for name in names}
        if len(values) > 1:
            self.refuse(f"its fields {', '.join(names)} differ, which the layers here cannot")
        return values.pop()

    def tensor(self, name: str, *shapes: tuple[int, ...]) -> Tensor:
        """A float32 copy of a tensor among the fields.

        Args:
            shapes: that it may have, -1 for any length; none given: any shape.
        """
        tensor = self.find_tensor(name)
        if tensor is None:
            self.refuse(f"it has no tensor {name}")
        if shapes and not any(_fits(tuple(tensor.shape), shape) for shape in shapes):
            wanted = " or ".join(" x ".join("?" if n < 0 else str(n) for n in s) for s in shapes)
            found = " x ".join(map(str, tensor.shape))
            self.refuse(f"its tensor {name} must have the size {wanted}, but has {found}")
        return tensor

    def find_tensor(self, name: str) -> Tensor | None:
        """As :meth:`tensor`; None where the field is absent or empty."""
        value = self.module.fields.get(name)
        if value is None or (isinstance(value, np.ndarray) and value.size == 0):
            return None
        if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
            self.refuse(f"its field {name} must be a tensor of floats, but is {in_words(value)}")
        steps = [step // value.itemsize for step in value.strides]
        extent = 1 + sum((n - 1) * step for n, step in zip(value.shape, steps, strict=True))
        if value.size > extent:  # a few numbers could become any amount of memory
            self.refuse(f"its tensor {name} shows more numbers than it has")
        with np.errstate(over="ignore"):  # doubles may be too large; loading warns of infinity
            return torch.from_numpy(np.array(value, np.float32, order="C"))


def dissolve(module: object, where: str) -> list[Layer]:
    """The layers of a module and of what it contains.

    Args:
        module: from a file.
        where: its name in the model.

    Raises:
        WeightsError: a module of a class that is not known here, or none at all.
    """
    return list(_dissolve(module, where, iter(range(MAX_MODULES)), 0))


def dissolve_children(module: object, where: str) -> list[list[Layer]]:
    """The layers of each module directly within a container; see :func:`dissolve`."""
    visited = iter(range(MAX_MODULES))
    return [list(_dissolve(child, place, visited, 1)) for place, child in _children(module, where)]


def _children(module: object, where: str) -> list[tuple[str, object]]:
    """(place, module) of those directly within a container."""
    modules = module.fields.get("modules") if isinstance(module, TorchObject) else None
    if not isinstance(modules, dict) or not all(n in modules for n in range(1, len(modules) + 1)):
        raise WeightsError(f"{where} must be a container of modules, but is {in_words(module)}")
    return [(f"{where}[{number}]", modules[number]) for number in range(1, len(modules) + 1)]


def _dissolve(module: object, where: str, visited: Iterator[int], depth: int) -> Iterator[Layer]:
    if not isinstance(module, TorchObject):
        raise WeightsError(f"{where} must be a module, but is {in_words(module)}")
    if next(visited, None) is None or depth > MAX_DEPTH:
        raise WeightsError(
            f"{where}: there are more than {MAX_MODULES} modules, or more than {MAX_DEPTH} within "
            "each other: this is none of FAIR's networks"
        )
    package, _, name = module.class_name.rpartition(".")
    kind = _KINDS.get(name) if package in _PACKAGES else None
    if kind is None:
        raise WeightsError(
            f"{where} is of the class {module.class_name!r}, which is in none of FAIR's networks: "
            "what it computes is not known here. Only the networks of its DeepMask and SharpMask "
            "on a ResNet can be converted"
        )
    if kind == "sequential":
        for place, child in _children(module, where):
            yield from _dissolve(child, place, visited, depth + 1)
    elif kind == "branches":
        branches = tuple(
            tuple(_dissolve(child, place, visited, depth + 1))
            for place, child in _children(module, where)
        )
        yield Layer(kind, where, module, branches)
    elif kind in PADDINGS:
        yield from _padding(Layer(kind, where, module))
    elif kind != _NOTHING:
        yield Layer(kind, where, module)
    elif module.fields.get("v2") is False:
        Layer(kind, where, module).refuse("Torch7's first Dropout scales in inference, too")


def _padding(layer: Layer) -> Iterator[Layer]:
    """The layer, which may be a crop, or nothing at all."""
    amount = layer.same("pad_l", "pad_r", "pad_t", "pad_b")
    if amount < 0 and layer.kind == "zeros":
        yield Layer("crop", layer.where, layer.module)
    elif amount:
        yield layer


def in_words(value: object) -> str:
    """What a value of a file is, whatever it may be."""
    if isinstance(value, TorchObject):
        return f"a {value.class_name!r}"
    if isinstance(value, np.ndarray):
        return f"a tensor of the size {' x '.join(map(str, value.shape))}"
    if isinstance(value, str):
        return f"the text {value[:40]!r}"
    if isinstance(value, dict):
        return f"a table of {len(value)} entries"
    return "absent" if value is None else str(value)


def _fits(found: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return len(found) == len(wanted) and all(
        n in (-1, m) for m, n in zip(found, wanted, strict=True)
    )
