"""Reading the binary files of Lua Torch7 (``.t7``), without running anything that is in them.

Such a file is one value, which may contain others. A value is an int32, its type, and then:

    0  nil       nothing
    1  number    a double
    2  string    its length (int32), bytes
    3  table     index, number of pairs (int32), a key and a value for each
    4  object    index, "V 1" and the name of a class (both: length, bytes), content; the oldest
                 files lack the "V 1"
    5  boolean   int32
    6  function  length, bytecode, the values it refers to (a table)
    7, 8         functions with an index before that

What has an index (int32) and has been read before is only referred to: nothing follows. The content
of an object is a value, a table of its fields, except for two kinds of classes:

    tensors   dimensions n (int32), n sizes, n strides, 1 + offset (int64 each), a storage or nil
    storages  length (int64), numbers; those that lay on a GPU in the same way

All is little endian. A ``long`` has 8 bytes, as on 64-bit Linux, where Torch7 was used.
"""

from __future__ import annotations

import math
import os
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np

from instseg_d2.errors import WeightsError

MAX_DEPTH = 100
"""Values within values; a network of FAIR's nests some 25."""

MAX_DIMENSIONS = 32
"""Of a tensor."""

MAX_CLASS_NAME = 100
"""Characters."""

MAX_REPEATED = 1 << 20
"""Bytes of a tensor that shows numbers several times; else it is no larger than the file."""

STARTS = (b"\3\0\0\0\1\0\0\0", b"\4\0\0\0\1\0\0\0")
"""The first bytes of files that hold a table or an object, which has the index 1."""

_DTYPES = {
    "Byte": "<u1",
    "Char": "<i1",
    "Short": "<i2",
    "Int": "<i4",
    "Long": "<i8",
    "Half": "<f2",
    "Float": "<f4",
    "Double": "<f8",
}
_ARRAY = re.compile(rf"torch\.(?:Cuda)?({'|'.join(_DTYPES)})(Tensor|Storage)")
_CUDA_FLOATS = {
    "torch.CudaTensor": "torch.FloatTensor",
    "torch.CudaStorage": "torch.FloatStorage",
}
_VERSION = re.compile(r"V \d{1,9}")
_TEXT_FILE = re.compile(rb"[0-8]\r?\n-?\d")


@dataclass(eq=False, repr=False)
class TorchObject:
    """An instance of a Torch7 class, such as a module of ``nn``.

    Attributes:
        class_name: such as "nn.Linear"; also of a class that is unknown here.
        fields: by name; a field may refer to the object itself.
    """

    class_name: str
    fields: dict[Any, Any] = field(default_factory=dict)


def read_torch7(path: str) -> Any:
    """Read a file of Torch7.

    Args:
        path: an existing local file.

    Returns:
        The value in it, from None, float, str, bool, dict (a table; without the entries whose keys
        are neither strings nor numbers), :class:`TorchObject`, and NumPy arrays: a storage as one
        dimension, a tensor as a view of its storage, which it may show more than once. A function
        becomes None. What the file contains once and refers to again is one object.

    Raises:
        WeightsError: the file is damaged or of another kind.
    """
    with open(path, "rb") as file:
        start = file.read(16)
        if _TEXT_FILE.match(start):
            raise WeightsError(
                f"{path} is a file of Torch7 in its text format, of which only the binary one is "
                "read here. In Torch7, torch.save(name, torch.load(path, 'ascii')) makes that."
            )
        file.seek(0)
        return _Reader(file, os.fstat(file.fileno()).st_size, path).value(0)


class _Reader:
    """Reads values one after the other; sizes are believed only if the file has so much left."""

    def __init__(self, file: BinaryIO, size: int, path: str) -> None:
        self.file = file
        self.size = size
        self.path = path
        self.at = 0
        self.known: dict[int, Any] = {}  # by index
        self.within: list[str] = []  # classes of the objects that are being read

    def value(self, depth: int) -> Any:
        """The next value, which lies within ``depth`` others."""
        start = self.at
        if depth > MAX_DEPTH:
            raise self.error(start, f"values are nested more than {MAX_DEPTH} deep")
        kind = self.int32()
        if kind in _SIMPLE:
            return _SIMPLE[kind](self)
        if kind == _FUNCTION:
            return self.function(depth)
        if kind not in _INDEXED:
            raise self.error(start, f"a value of type {kind} stands, which Torch7 does not have,")
        index = self.int32()
        if index not in self.known:
            self.known[index] = None  # for what refers to it from within
            self.known[index] = _INDEXED[kind](self, index, depth)
        return self.known[index]

    def table(self, index: int, depth: int) -> dict[Any, Any]:
        start = self.at
        count = self.int32()
        if not 0 <= count <= self.left // 8:  # nil, the shortest value, has 4 bytes
            raise self.error(start, f"a table of {count} entries begins")
        entries: dict[Any, Any] = {}
        self.known[index] = entries
        for _ in range(count):
            key, value = self.value(depth + 1), self.value(depth + 1)
            if isinstance(key, str | float):
                entries[key] = value
        return entries

    def object(self, index: int, depth: int) -> Any:
        start = self.at
        name = self.string()
        if _VERSION.fullmatch(name):
            name = self.string()
        if len(name) > MAX_CLASS_NAME or not name.isprintable():
            raise self.error(start, f"the name of a class is {name[:MAX_CLASS_NAME]!r}")
        self.within.append(name)
        if match := _ARRAY.fullmatch(_CUDA_FLOATS.get(name, name)):
            read = self.tensor if match[2] == "Tensor" else self.storage
            result: Any = read(np.dtype(_DTYPES[match[1]]), depth)
        else:
            result = self.fields(TorchObject(name), index, depth)
        self.within.pop()
        return result

    def fields(self, result: TorchObject, index: int, depth: int) -> TorchObject:
        self.known[index] = result
        start = self.at
        content = self.value(depth + 1)
        if not isinstance(content, dict):
            raise self.error(start, f"the object is no table but a {type(content).__name__}")
        result.fields = content
        return result

    def function(self, depth: int) -> None:
        """Pass over a function."""
        self.raw(self.int32(), "a function")
        self.value(depth + 1)

    def storage(self, dtype: np.dtype, depth: int) -> np.ndarray:
        return np.frombuffer(self.raw(self.int64() * dtype.itemsize, "a storage"), dtype)

    def tensor(self, dtype: np.dtype, depth: int) -> np.ndarray:
        start = self.at
        dimensions = self.int32()
        if not 0 <= dimensions <= MAX_DIMENSIONS:
            raise self.error(start, f"a tensor of {dimensions} dimensions begins")
        sizes = [self.int64() for _ in range(dimensions)]
        strides = [self.int64() for _ in range(dimensions)]
        offset = self.int64() - 1
        storage = self.value(depth + 1)
        if storage is None:
            storage = np.empty(0, dtype)
        if not isinstance(storage, np.ndarray) or storage.ndim != 1 or storage.dtype != dtype:
            raise self.error(start, "a tensor refers to something else than a storage of its type")
        if not dimensions or 0 in sizes:
            return np.empty(0, dtype)
        # Where there is one number, numbers do not follow each other in any distance.
        strides = [stride if n > 1 else 0 for n, stride in zip(sizes, strides, strict=True)]
        last = offset + sum((n - 1) * stride for n, stride in zip(sizes, strides, strict=True))
        fits = min(offset, *sizes, *strides) >= 0 and last < len(storage)
        if not fits or math.prod(sizes) * dtype.itemsize > max(self.size, MAX_REPEATED):
            raise self.error(
                start,
                f"a tensor of sizes {sizes}, strides {strides} and offset {offset} does not lie in "
                f"its storage of {len(storage)} numbers; it begins",
            )
        steps = [stride * dtype.itemsize for stride in strides]
        return np.ndarray(sizes, dtype, storage, offset * dtype.itemsize, steps)

    # ---- the parts -------------------------------------------------------------------------------

    def string(self) -> str:
        return self.raw(self.int32(), "a string").decode("utf-8", "backslashreplace")

    def int32(self) -> int:
        return int.from_bytes(self.raw(4), "little", signed=True)

    def int64(self) -> int:
        return int.from_bytes(self.raw(8), "little", signed=True)

    def double(self) -> float:
        number: float = struct.unpack("<d", self.raw(8))[0]
        return number

    @property
    def left(self) -> int:
        """Bytes that have not been read."""
        return self.size - self.at

    def raw(self, count: int, what: str = "a number") -> bytes:
        """The next bytes."""
        content = self.file.read(count) if 0 <= count <= self.left else b""
        if len(content) != count:
            raise self.error(self.at, f"{what} of {count} bytes begins where {self.left} are left,")
        self.at += count
        return content

    def error(self, at: int, text: str) -> WeightsError:
        """What is wrong, where, and what to do."""
        within = f" (within {' in '.join(reversed(self.within[-3:]))})" if self.within else ""
        return WeightsError(
            f"{self.path} cannot be read as a file of Torch7: {text} at byte {at}{within}. It is "
            "damaged, incomplete, of another kind or from a system that is not 64-bit. Fetch or "
            "copy it again; what Torch7 itself can read, its torch.save writes anew."
        )


_SIMPLE: dict[int, Callable[[_Reader], Any]] = {
    0: lambda reader: None,
    1: _Reader.double,
    2: _Reader.string,
    5: lambda reader: reader.int32() != 0,
}
_FUNCTION = 6
_INDEXED: dict[int, Callable[[_Reader, int, int], Any]] = {
    3: _Reader.table,
    4: _Reader.object,
    7: lambda reader, index, depth: reader.function(depth),
    8: lambda reader, index, depth: reader.function(depth),
}
