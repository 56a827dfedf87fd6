"""Weights and pickles of a few bytes that would take hours, gigabytes or the whole process."""

import contextlib
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch

from instseg_d2.data.proposal_files import read_proposal_file
from instseg_d2.errors import DataError, UserError, WeightsError, short_repr
from instseg_d2.weights.file import read_weights_file
from instseg_d2.weights.pickle_guard import MAX_DEPTH, check_pickle
from instseg_d2.weights.safe_pickle import ArrayUnpickler

HEAD = b"\x80\x02}"
END = b"Ns."  # None as the value of the key before it


def number(value):
    return b"\x8a\x08" + struct.pack("<q", value)


PICKLES = {
    "nested tuples": (HEAD + b")" + b"\x85" * 1_000_000 + END, "nested more than"),
    "tuples of the same tuples": (HEAD + b")" + b"2\x86" * 64 + END, "too long to hash"),
    "sets of the same sets": (HEAD + b"\x8f" + b"(22\x91" * 64 + END, "damaged"),
    "a high note": (HEAD + b"r\xff\xff\xff\x7f.", "numbers one of its values 2147483647"),
    "a high note in words": (HEAD + b"p9999999999\n.", "numbers one of its values 9999999999"),
    "declared bytes": (HEAD + b"\x8e" + struct.pack("<Q", 2**40) + b"x" + END, "does not fit"),
    "declared text": (HEAD + b"X" + struct.pack("<I", 2**31) + b"x" + END, "does not fit"),
    "a declared frame": (b"\x80\x04\x95" + struct.pack("<Q", 2**60) + b"}.", "does not fit"),
    "a negative length": (HEAD + b"\x8b" + struct.pack("<i", -5) + END, "does not fit"),
    "a registered extension": (HEAD + b"\x82\x01.", "unregistered extension"),
    "what is not on the stack": (HEAD + b"(0000.", "takes values that it has not"),
    "a note that was not made": (HEAD + b"h\x09.", "refers to a value that it has not"),
    "a long number as name": (HEAD + b"\x8b" + struct.pack("<i", 10**6) + b"\x7f" * 10**6 + END,
                              "entry a very long number is a NoneType"),
    "a system call": (HEAD + b"cos\nsystem\nX\x02\0\0\0id\x85R" + END, "it holds 'os.system'"),
    "the oldest way to call": (b"(S'id'\nios\nsystem\n.", "it holds 'os.system'"),
    "a state for a class": (HEAD + b"ccollections\nOrderedDict\n}X\x01\0\0\0xNsb" + END, "damaged"),
    "nothing": (b"\x80\x02", "cut off"),
}  # fmt: skip


def lists_of_the_same_lists(depth=40):
    """Each holds the next one twice; the first is the content of a proposal file."""
    raw = b"\x80\x02" + b"".join(b"]q" + bytes([i]) for i in range(depth)) + b"0" * depth
    for index in range(depth - 1):
        raw += b"h" + bytes([index]) + b"(" + (b"h" + bytes([index + 1])) * 2 + b"e0"
    keys = (b"ids", b"boxes", b"objectness_logits")
    return raw + b"}(" + b"".join(b"U" + bytes([len(k)]) + k + b"h\0" for k in keys) + b"u."


def saved(edit=None, *, compress=zipfile.ZIP_STORED, extra=(), old=False, weights=None):
    """A file of PyTorch, with ``edit`` applied to its pickle."""
    buffer = io.BytesIO()
    content = {"model": {"w": torch.arange(4.0) if weights is None else weights}}
    torch.save(content, buffer, _use_new_zipfile_serialization=not old)
    edit = edit or (lambda raw: raw)
    if old:
        return edit(buffer.getvalue())
    result = io.BytesIO()
    with zipfile.ZipFile(buffer) as read, zipfile.ZipFile(result, "w", compress) as file:
        for name in read.namelist():
            raw = read.read(name)
            file.writestr(name, edit(raw) if name.endswith("data.pkl") else raw)
        for name, raw in extra:
            file.writestr(name, raw)
    return result.getvalue()


def longer(raw):
    """A storage of 2**27 numbers in place of 4."""
    changed = raw.replace(b"K\x04tq", b"J\0\0\0\x08tq", 1)
    return changed if changed != raw else raw.replace(b"K\x04Ntq", b"J\0\0\0\x08Ntq", 1)


def bomb():
    """400 MB of zeros in 400 KB."""
    zeros = io.BytesIO(saved(weights=torch.zeros(100 << 20)))
    result = io.BytesIO()
    with zipfile.ZipFile(zeros) as read, zipfile.ZipFile(result, "w", zipfile.ZIP_DEFLATED) as file:
        for name in read.namelist():
            file.writestr(name, read.read(name))
    return result.getvalue()


def overlapping():
    """A directory that names the same bytes several times."""
    raw = saved(weights=torch.zeros(1000))
    at = raw.index(b"PK\1\2")
    end = raw.rindex(b"PK\5\6")
    largest = _largest(raw, at, end)
    name = _name(largest)
    entries = b"".join(largest.replace(name, name[:-4] + b"%04d" % i) for i in range(50))
    directory = raw[at:end] + entries
    count = raw[at:end].count(b"PK\1\2") + 50
    tail = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, count, count, len(directory), at, 0)
    return raw[:at] + directory + tail


def _largest(raw, at, end):
    entries = [b"PK\1\2" + part for part in raw[at:end].split(b"PK\1\2")[1:]]
    return max(entries, key=lambda entry: struct.unpack("<I", entry[24:28])[0])


def _name(entry):
    return entry[46 : 46 + struct.unpack("<H", entry[28:30])[0]]


def safetensors_file(header, data=b"\0" * 16, length=None):
    text = json.dumps(header).encode() if isinstance(header, dict) else header
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(start, stop, shape=(2,)):
    return {"dtype": "F32", "shape": list(shape), "data_offsets": [start, stop]}


FILES = {
    "nested tuples.pth": (lambda: saved(lambda raw: PICKLES["nested tuples"][0]), "nested more"),
    "same tuples.pth": (lambda: saved(lambda raw: HEAD + b")" + b"2\x86" * 64 + END), "too long"),
    "storage of the same tuples.pth": (
        lambda: saved(
            lambda raw: HEAD
            + b"(X\x07\0\0\0storage" + b")" + b"2\x86" * 64 + b"2K\0K\x01tQ" + END
        ),
        "no short text",
    ),
    "longer storage.pth": (lambda: saved(longer), "536870912 bytes has 16 in the file"),
    "longer storage of old.pth": (lambda: saved(longer, old=True), "together longer than the file"),
    "nested tuples of old.pth": (
        lambda: saved(lambda raw: raw[:-1] + b"", old=True)[:14] + PICKLES["nested tuples"][0],
        "nested more",
    ),
    "bomb.pth": (bomb, "is compressed"),
    "overlapping.pth": (overlapping, "together longer than the file"),
    "same name.pth": (
        lambda: saved(extra=[("ARCHIVE/DATA.PKL", b"x")]), "two of its parts have the same name",
    ),
    "repeated number.pth": (
        lambda: saved(weights=torch.zeros(1).expand(2**36)), "more than 8 times as large"
    ),
    "long header.safetensors": (lambda: safetensors_file({}, length=2**62), "cannot be read"),
    "overlapping.safetensors": (
        lambda: safetensors_file({"a": entry(0, 8), "b": entry(4, 12)}), "cannot be read"
    ),
    "beyond the end.safetensors": (lambda: safetensors_file({"a": entry(0, 2**40)}), "cannot"),
    "huge shape.safetensors": (
        lambda: safetensors_file({"a": entry(0, 16, [2**40, 2**40])}), "cannot be read"
    ),
    "deep header.safetensors": (lambda: safetensors_file(b'{"a":' * 50_000), "cannot be read"),
}  # fmt: skip


READ_ALL = """
import resource, sys, warnings
from instseg_d2.data.proposal_files import read_proposal_file
from instseg_d2.errors import UserError
from instseg_d2.weights.file import read_weights_file

warnings.simplefilter("ignore")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (2 << 30),) * 2)
for path in sys.argv[1:]:
    for read in (read_weights_file, lambda path: list(read_proposal_file(path))):
        try:
            print("READ", read(path))
        except UserError as error:
            print(str(error).replace("\\n", " "))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits memory as Linux does")
def test_bombs_end_in_one_line_each_and_in_little_memory(tmp_path, repo):
    """In a process of its own: what is tested is that it neither crashes nor grows."""
    paths, said = [], []
    for title, (raw, text) in PICKLES.items():
        paths.append(tmp_path / f"{title}.pkl")
        paths[-1].write_bytes(raw)
        said.append(text)
    for title, (make, text) in FILES.items():
        paths.append(tmp_path / title)
        paths[-1].write_bytes(make())
        said.append(text)
    result = subprocess.run(
        [sys.executable, "-c", READ_ALL, *map(str, paths)],
        cwd=repo,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    *lines, megabytes = result.stdout.splitlines()
    assert len(lines) == 2 * len(paths), result.stdout
    for path, text, line in zip(paths, said, lines[::2], strict=True):
        assert str(path) in line
        assert text in line, line
        assert len(line) < 600
    assert not any(line.startswith("READ") for line in lines)
    assert int(megabytes) < 100


def test_lists_of_the_same_lists_are_shown_in_short(tmp_path):
    path = tmp_path / "a.pkl"
    path.write_bytes(lists_of_the_same_lists())
    with pytest.raises(DataError, match=r"entry 0: [\[\]., ]* is no image id"):
        list(read_proposal_file(path))


def test_names_that_lead_elsewhere_write_nothing(tmp_path):
    folder = tmp_path / "inner"
    folder.mkdir()
    absolute = tmp_path / "absolute.txt"
    for name in ("../../evil.txt", str(absolute), "archive/../../../evil.txt"):
        (folder / "a.pth").write_bytes(saved(extra=[(name, b"evil")]))
        with contextlib.suppress(WeightsError):
            read_weights_file(str(folder / "a.pth"))
    assert sorted(os.listdir(tmp_path)) == ["inner"]
    assert os.listdir(folder) == ["a.pth"]


def test_tensors_may_share_their_numbers(tmp_path):
    shared = torch.arange(1000.0)
    torch.save({"model": {"a.w": shared, "b.w": shared, "c.w": shared[::2]}}, tmp_path / "a.pth")
    assert len(read_weights_file(str(tmp_path / "a.pth"))["model"]) == 3


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_the_guard_lets_every_protocol_pass(protocol):
    deep = ()
    for _ in range(MAX_DEPTH - 1):
        deep = (deep,)
    value = {
        "text": "x" * 70_000,
        "bytes": b"x" * 300,
        "numbers": [1, -1, 2**70, 0.5, True, None],
        "keys": {(1, ("a", 2)): {3, 4}, frozenset({5}): 6},
        "order": OrderedDict(a=[{}], b=bytearray(b"y")),
        "array": np.arange(5000.0),
        "many": [(i, str(i)) for i in range(3000)],
        "deep": deep,
    }
    file = io.BytesIO(pickle.dumps(value, protocol) + b"rest")
    check_pickle(file)
    assert file.read() == b"rest"


def test_many_keys_and_arrays_are_no_bomb():
    value = {(number, "key", (number,)): np.zeros(2) for number in range(20_000)}
    assert len(ArrayUnpickler(io.BytesIO(pickle.dumps(value, 2))).load()) == 20_000


def test_values_in_messages_are_short_lines():
    loop = []
    loop += [loop, OrderedDict(a=loop), {"x" * 1000: 1}, 10**5000, np.zeros(3)]
    assert len(short_repr(loop)) < 300
    assert short_repr([1, "a", None, 0.5]) == "[1, 'a', None, 0.5]"
    assert "\x1b" not in str(UserError("\x1b[2J\x07 cleared\nnext line"))
    assert str(UserError("ä\nb")) == "ä\nb"
