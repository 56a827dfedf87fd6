"""Unpickling NumPy arrays, numbers and plain containers, and nothing else.

A list of admitted names is not enough: NumPy's own ``dtype`` and ``ndarray`` believe what a pickle
tells them, so that a forged one makes NumPy take raw bytes for the addresses of objects. Where a
pickle asks for a part of NumPy it gets a stand-in, which checks all that it is given and takes
plain numbers and text only.
"""

from __future__ import annotations

import math
import pickle
import re
import sys
from collections import OrderedDict
from collections.abc import Callable
from typing import IO, Any

import numpy as np

from instseg_d2.weights.pickle_guard import check_pickle

MAX_DIMENSIONS = 32
"""Of an array; so many NumPy 1 could have."""

_PLAIN_DTYPE = re.compile(r"[biufc]\d{1,2}|[SU]\d{1,9}")
"""Names of the types of numbers and of text of a fixed length, as NumPy pickles them."""

_RAW_ENCODING = "latin1"
"""How bytes are written as text where a protocol has no bytes."""


class RefusedError(Exception):
    """A pickle asks for something that is not read from it.

    Not a ``pickle.UnpicklingError``, which PyTorch would put into other words.

    Attributes:
        what: its name.
    """

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


class ArrayUnpickler(pickle.Unpickler):
    """Builds what :data:`ADMITTED` lists. :meth:`load` raises :class:`RefusedError` for other
    things, and errors of many types for a pickle that is damaged or takes more than its length can
    explain."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, encoding=_RAW_ENCODING)
        self._file = file

    def load(self) -> Any:
        start = self._file.tell()
        check_pickle(self._file)
        self._file.seek(start)
        return super().load()

    def find_class(self, module: str, name: str) -> Any:
        module = {"__builtin__": "builtins"}.get(module, module)  # as Python 2 calls it
        if f"{module}.{name}" not in ADMITTED:
            raise RefusedError(f"{module}.{name}")
        return ADMITTED[f"{module}.{name}"]


class Function:
    """A function that a pickle can call; unlike those of Python, it cannot change this one."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a state for a function")


class _DType:
    """Stands in for ``numpy.dtype``: a type of plain numbers or text, in either byte order."""

    __slots__ = ("dtype",)

    def __init__(self, name: Any, align: Any = False, copy: Any = False) -> None:
        if not isinstance(name, str) or not _PLAIN_DTYPE.fullmatch(name):
            raise RefusedError(f"numpy.dtype {name!r}")
        self.dtype = np.dtype(name)
        if self.dtype.itemsize == 0:
            raise pickle.UnpicklingError("text of length 0")

    def __setstate__(self, state: Any) -> None:
        # (version, byte order, subarray, names, fields, length, alignment, flags). The flags would
        # say that there are Python objects in an array.
        _, order, *structure = state[:5]
        if any(part is not None for part in structure):
            raise RefusedError("numpy.dtype with fields")
        self.dtype = self.dtype.newbyteorder(order if order in ("<", ">") else "=")


class _Array(np.ndarray):
    """Stands in for ``numpy.ndarray``; comes from :func:`_reconstruct` and is then filled."""

    def __new__(cls, *args: Any, **kwargs: Any) -> _Array:
        raise RefusedError("a call of numpy.ndarray")

    def __setstate__(self, state: Any) -> None:
        shape, dtype, is_fortran, raw = state[-4:]  # a version number may come first
        raw = bytes(_raw_bytes(raw))
        _check_size(shape, dtype, raw)
        content: Any = (1, shape, dtype.dtype, bool(is_fortran), raw)
        super().__setstate__(content)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Saved as the array that it stands in for."""
        return self.view(np.ndarray).__reduce_ex__(protocol)


def _reconstruct(array_type: Any, shape: Any, code: Any) -> _Array:
    if array_type is not _Array:
        raise RefusedError("an array of another class than numpy.ndarray")
    return np.ndarray.__new__(_Array, (0,), np.int8)


def _frombuffer(raw: Any, dtype: Any, shape: Any, order: Any, axis_order: Any = None) -> np.ndarray:
    """Protocol 5's arrays. Order "K" is that of the memory, whose axes ``axis_order`` permutes."""
    raw = _raw_bytes(raw)
    _check_size(shape, dtype, raw)
    flat = np.frombuffer(raw, dtype.dtype)
    if order == "K":
        return flat.reshape(shape).transpose(axis_order)
    return flat.reshape(shape, order=order)


def _scalar(dtype: Any, raw: Any) -> np.generic:
    raw = _raw_bytes(raw)
    _check_size((), dtype, raw)
    scalar: np.generic = np.frombuffer(raw, dtype.dtype)[0]
    return scalar


def _encode(text: str, encoding: str) -> bytes:
    if encoding != _RAW_ENCODING:
        raise pickle.UnpicklingError(f"bytes written in {encoding!r}")
    return text.encode(encoding)


def _bytes() -> bytes:
    """The oldest protocols call for empty bytes only."""
    return b""


def _bytearray(content: Any = b"", encoding: str = "latin-1") -> bytearray:
    if encoding != "latin-1":
        raise pickle.UnpicklingError(f"a bytearray written in {encoding!r}")
    return bytearray(_raw_bytes(content))  # never from a number, which would be a length


def _raw_bytes(raw: Any) -> bytes | bytearray:
    if isinstance(raw, str):  # from Python 2
        return raw.encode(_RAW_ENCODING)
    if type(raw) not in (bytes, bytearray):
        raise pickle.UnpicklingError(f"a {type(raw).__name__} for an array's bytes")
    return raw


def _check_size(shape: Any, dtype: Any, raw: bytes | bytearray) -> None:
    """Raise ``UnpicklingError`` unless the bytes are those of an array of this type and shape."""
    if type(dtype) is not _DType:
        raise pickle.UnpicklingError(f"a {type(dtype).__name__} for an array's type")
    if type(shape) is not tuple or any(type(length) is not int or length < 0 for length in shape):
        raise pickle.UnpicklingError("an array's shape that is no tuple of lengths")
    if len(shape) > MAX_DIMENSIONS:
        raise pickle.UnpicklingError(f"an array of {len(shape)} dimensions")
    size = dtype.dtype.itemsize
    if math.prod(shape) * size != len(raw):
        raise pickle.UnpicklingError(f"an array of shape {shape} of {len(raw)} bytes")
    if math.prod(length or 1 for length in shape) * size > sys.maxsize:
        raise pickle.UnpicklingError(f"an array of shape {shape}")


ADMITTED: dict[str, Any] = {
    "_codecs.encode": Function(_encode),  # Python 3 writes bytes so in the old protocols
    "builtins.bytearray": Function(_bytearray),
    "builtins.bytes": Function(_bytes),
    "builtins.complex": complex,
    "builtins.set": set,
    "collections.OrderedDict": OrderedDict,
    "numpy.dtype": _DType,
    "numpy.ndarray": _Array,
    **{
        f"numpy.{core}.{name}": function
        for core in ("core", "_core")  # NumPy 1 and 2
        for name, function in (
            ("multiarray._reconstruct", Function(_reconstruct)),
            ("multiarray.scalar", Function(_scalar)),
            ("numeric._frombuffer", Function(_frombuffer)),
        )
    },
}
"""What a pickle may ask for -> what it gets."""
