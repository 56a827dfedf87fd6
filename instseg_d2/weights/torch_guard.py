"""Are the sizes that a file of PyTorch declares those of the file?

``torch.load`` believes them: it would unpack a compressed file of any size, allocate storages as
long as their pickle says, and read beyond them where a record is shorter (before PyTorch 2.10).
"""

from __future__ import annotations

import io
import os
import pickle
import tarfile
import zipfile
from typing import Any

from instseg_d2.weights.pickle_guard import check_pickle

_PICKLES_OF_OLD = 5
"""In the old format, before the numbers: the mark, a version, the machine, the content, a list."""

_ITEM_SIZES = {
    **dict.fromkeys(("Untyped", "Byte", "Char", "Bool", "QInt8", "QUInt8"), 1),
    **dict.fromkeys(("QUInt4x2", "QUInt2x4"), 1),
    **dict.fromkeys(("Half", "BFloat16", "Short"), 2),
    **dict.fromkeys(("Float", "Int", "QInt32"), 4),
    **dict.fromkeys(("Double", "Long", "ComplexFloat"), 8),
    "ComplexDouble": 16,
}
"""Kind of a storage -> bytes of one of its numbers."""


def check_torch_file(path: str) -> None:
    """Look at what ``torch.load`` would read, without reading the weights.

    Raises:
        Exception: of many types: the file is damaged, or takes more time or memory than its length
            can explain.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            _check_archive(archive, os.path.getsize(path))
    elif not tarfile.is_tarfile(path):  # PyTorch refuses these
        _check_old(path)


def _check_archive(archive: zipfile.ZipFile, size: int) -> None:
    """PyTorch never compresses, so that the parts are together no longer than the file."""
    # TorchScript's code, which is compressed, is not looked at: such files are refused.
    records = [
        r for r in archive.infolist() if not r.filename.partition("/")[2].startswith("code/")
    ]
    for record in records:
        if record.compress_type != zipfile.ZIP_STORED:
            raise pickle.UnpicklingError(f"its part {record.filename[:80]!r} is compressed")
    if sum(record.file_size for record in records) > size:
        raise pickle.UnpicklingError("its parts are together longer than the file")
    # PyTorch's reader does not tell capital letters from small ones.
    sizes = {record.filename.lower(): record.file_size for record in records}
    if len(sizes) < len(records):
        raise pickle.UnpicklingError("two of its parts have the same name")
    for record in records:
        folder, _, name = record.filename.lower().rpartition("/")
        if name.endswith(".pkl"):
            content = io.BytesIO(archive.read(record))
            check_pickle(content, _RecordSizes(folder, sizes) if name == "data.pkl" else None)


class _RecordSizes:
    """Raises unless a storage is as long as the record that it is read from."""

    def __init__(self, folder: str, sizes: dict[str, int]) -> None:
        self.folder = folder
        self.sizes = sizes

    def __call__(self, kind: str, key: str, length: Any) -> None:
        stored = self.sizes.get(f"{self.folder}/data/{key.lower()}")
        needed = _bytes_needed(kind, length)
        if needed is not None and stored is not None and needed != stored:
            raise pickle.UnpicklingError(f"a storage of {needed} bytes has {stored} in the file")


class _TotalSize:
    """Raises if storages are together longer than the file."""

    def __init__(self, size: int) -> None:
        self.left = size
        self.keys: set[str] = set()

    def __call__(self, kind: str, key: str, length: Any) -> None:
        if key in self.keys:
            return
        self.keys.add(key)
        self.left -= _bytes_needed(kind, length) or 0
        if self.left < 0:
            raise pickle.UnpicklingError("its storages are together longer than the file")


def _check_old(path: str) -> None:
    size = os.path.getsize(path)
    on_storage = _TotalSize(size)
    with open(path, "rb") as file:
        for _ in range(_PICKLES_OF_OLD):
            if file.tell() < size:  # else PyTorch says what lacks
                check_pickle(file, on_storage)


def _bytes_needed(kind: str, length: Any) -> int | None:
    """Bytes of a storage; None for a kind that PyTorch will refuse."""
    item_size = _ITEM_SIZES.get(kind.rpartition(" ")[2].removesuffix("Storage"))
    if item_size is None:
        return None
    if not isinstance(length, int) or length < 0:
        raise pickle.UnpicklingError("the length of a storage is no whole number from 0")
    return length * item_size
