"""Writes values to binary files of Lua Torch7, as its ``torch.save`` on 64-bit Linux does."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from instseg_d2.weights.torch7 import TorchObject

_KINDS = {"|u1": "Byte", "|i1": "Char", "<i2": "Short", "<i4": "Int", "<i8": "Long"}
_KINDS |= {"<f2": "Half", "<f4": "Float", "<f8": "Double"}


@dataclass(eq=False)
class Tensor:
    """A tensor whose storage other tensors may share.

    Attributes:
        storage: one dimension; as large as may be.
        sizes, strides: in numbers, not bytes.
        offset: of the first number.
        cuda: a tensor on a GPU.
    """

    storage: Storage
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0
    cuda: bool = False


@dataclass(eq=False)
class Storage:
    numbers: np.ndarray


@dataclass(eq=False)
class Function:
    """A function with some bytecode and the values that it refers to."""

    kind: int = 8
    bytecode: bytes = b"\x1bLJ"
    upvalues: Any = field(default_factory=dict)


def tensor(array: np.ndarray, cuda: bool = False) -> Tensor:
    """A tensor of its own storage, without gaps."""
    array = np.ascontiguousarray(array)
    strides = tuple(step // array.itemsize for step in array.strides)
    return Tensor(Storage(array.reshape(-1)), array.shape, strides, cuda=cuda)


def write_torch7(path: Path, value: Any, *, with_versions: bool = True) -> str:
    """Write ``value``: None, numbers, text, truth values, dicts and lists (tables), NumPy arrays
    (tensors), :class:`Tensor`, :class:`Storage`, :class:`TorchObject` and :class:`Function`.

    What is one object in Python is one in the file.

    Args:
        with_versions: False: as the oldest files are, without the version of objects.
    """
    path.write_bytes(torch7_bytes(value, with_versions=with_versions))
    return str(path)


def torch7_bytes(value: Any, *, with_versions: bool = True) -> bytes:
    writer = _Writer(with_versions)
    writer.value(value)
    return b"".join(writer.parts)


def mutated(original: bytes, generator: np.random.Generator) -> bytes:
    """Some bytes changed, a piece cut out or doubled, or a number of 4 bytes replaced."""
    raw = bytearray(original)
    for _ in range(generator.integers(1, 4)):
        at = int(generator.integers(len(raw)))
        choice = generator.integers(5)
        if choice == 0:
            raw[at] = generator.integers(256)
        elif choice == 1:
            raw[at] ^= 1 << int(generator.integers(8))
        elif choice == 2:
            extreme = (0, 1, 3, 4, 8, 255, -1, 2**31 - 1, -(2**31))[generator.integers(9)]
            raw[at : at + 4] = struct.pack("<i", extreme)
        elif choice == 3:
            del raw[at : at + int(generator.integers(1, 40))]
            raw = raw or bytearray(1)
        else:
            start, length = int(generator.integers(len(raw))), int(generator.integers(1, 40))
            raw[at:at] = raw[start : start + length]
    return bytes(raw)


class _Writer:
    def __init__(self, with_versions: bool) -> None:
        self.parts: list[bytes] = []
        self.indices: dict[int, int] = {}
        self.kept: list[Any] = []  # so that no id is used twice
        self.with_versions = with_versions

    def value(self, value: Any, cuda: bool = False) -> None:
        if value is None:
            self.int32(0)
        elif isinstance(value, bool):
            self.int32(5, int(value))
        elif isinstance(value, int | float):
            self.int32(1)
            self.parts.append(struct.pack("<d", value))
        elif isinstance(value, str):
            self.int32(2)
            self.text(value)
        elif isinstance(value, Function) and value.kind == 6:
            self.int32(6)
            self.function(value)
        else:
            self.indexed(value, cuda)

    def indexed(self, value: Any, cuda: bool) -> None:
        table = isinstance(value, dict | list)
        self.int32(3 if table else value.kind if isinstance(value, Function) else 4)
        is_new = id(value) not in self.indices
        index = self.indices.setdefault(id(value), len(self.indices) + 1)
        self.int32(index)
        if not is_new:
            return
        self.kept.append(value)
        if table:
            entries = value if isinstance(value, dict) else dict(enumerate(value, start=1))
            self.int32(len(entries))
            for key, entry in entries.items():
                self.value(key)
                self.value(entry)
        elif isinstance(value, Function):
            self.function(value)
        elif isinstance(value, TorchObject):
            self.class_name(value.class_name)
            self.value(value.fields)
        elif isinstance(value, Storage):
            self.class_name(_class_name(value.numbers, "Storage", cuda))
            self.int64(len(value.numbers))
            self.parts.append(value.numbers.tobytes())
        else:
            self.tensor(value if isinstance(value, Tensor) else tensor(value))

    def tensor(self, value: Tensor) -> None:
        self.class_name(_class_name(value.storage.numbers, "Tensor", value.cuda))
        self.int32(len(value.sizes))
        self.int64(*value.sizes, *value.strides, value.offset + 1)
        self.value(value.storage if value.sizes else None, value.cuda)

    def function(self, value: Function) -> None:
        self.int32(len(value.bytecode))
        self.parts.append(value.bytecode)
        self.value(value.upvalues)

    def class_name(self, name: str) -> None:
        if self.with_versions:
            self.text("V 1")
        self.text(name)

    def text(self, value: str) -> None:
        self.int32(len(value.encode()))
        self.parts.append(value.encode())

    def int32(self, *values: int) -> None:
        self.parts.append(struct.pack(f"<{len(values)}i", *values))

    def int64(self, *values: int) -> None:
        self.parts.append(struct.pack(f"<{len(values)}q", *values))


def _class_name(numbers: np.ndarray, kind: str, cuda: bool) -> str:
    name = _KINDS[numbers.dtype.str]
    if cuda:
        name = "Cuda" if name == "Float" else f"Cuda{name}"
    return f"torch.{name}{kind}"
