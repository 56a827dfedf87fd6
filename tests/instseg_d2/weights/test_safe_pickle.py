"""What pickles may hold, and forged ones that would crash NumPy or more."""

import io
import pickle
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch

from instseg_d2.errors import WeightsError
from instseg_d2.weights.file import read_weights_file
from instseg_d2.weights.safe_pickle import ArrayUnpickler

ARRAY = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
READ_ONLY = ARRAY.copy()
READ_ONLY.flags.writeable = False

LEGITIMATE = {
    "float32": ARRAY,
    "float16": ARRAY.astype(np.float16),
    "complex": ARRAY * 1j,
    "unsigned": ARRAY.astype(np.uint8),
    "bool": ARRAY > 2,
    "big-endian": ARRAY.astype(">f4"),
    "Fortran order": np.asfortranarray(ARRAY),
    "permuted": ARRAY.transpose(1, 0, 2),
    "strided": ARRAY[:, ::2],
    "read-only": READ_ONLY,
    "empty": np.zeros((0, 2)),
    "no dimensions": np.array(3),
    "number": np.float64(2.5),
    "big-endian number": np.array(7, ">i4")[()],
    "truth": np.bool_(True),
    "text": np.array(["ab", "c"]),
    "bytes of text": np.array([b"ab", b"c"]),
    "one text": np.str_("ab"),
}
PLAIN = {
    "bytes": b"\xff\x00",
    "no bytes": b"",
    "bytearray": bytearray(b"\xff\x00"),
    "no bytearray": bytearray(),
    "set": {1, 2},
    "complex": 1j,
    "dict": OrderedDict(a=[1, (2.5, None)], b="text"),
}


def unpickle(raw):
    return ArrayUnpickler(io.BytesIO(raw)).load()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", LEGITIMATE)
def test_arrays_and_numbers_of_numpy(name, protocol):
    value = LEGITIMATE[name]
    read = unpickle(pickle.dumps(value, protocol))
    assert type(read) is type(value) or isinstance(value, np.ndarray)
    assert read.shape == value.shape
    assert read.dtype.newbyteorder("=") == value.dtype.newbyteorder("=")
    assert np.array_equal(read, value)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", PLAIN)
def test_plain_values(name, protocol):
    read = unpickle(pickle.dumps(PLAIN[name], protocol))
    assert type(read) is type(PLAIN[name])
    assert read == PLAIN[name]


def test_what_was_read_can_be_saved_for_everyone():
    again = pickle.loads(pickle.dumps(unpickle(pickle.dumps(ARRAY, 2))))
    assert type(again) is np.ndarray
    assert np.array_equal(again, ARRAY)


def test_pkl_of_protocol_2_with_an_empty_array(tmp_path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"model": {"a.e": np.zeros((0, 2))}}, 2))
    assert read_weights_file(str(tmp_path / "a.pkl"))["model"]["a.e"].shape == (0, 2)


def test_read_only_arrays_become_tensors_that_can_be_written_to(tmp_path, recwarn):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"a.w": READ_ONLY}, 5))
    read_weights_file(str(tmp_path / "a.pkl"))["model"]["a.w"].zero_()
    assert not recwarn.list


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "value", [np.float64(0.5), np.int64(3), np.bool_(True), np.array(["cat"]), np.zeros((0, 2))]
)
def test_pth_with_values_of_numpy_beside_the_weights(tmp_path, value, zipped):
    content = {"model": {"w": torch.ones(2)}, "best": value}
    admitted = set(torch.serialization.get_safe_globals())
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    checkpoint = read_weights_file(str(tmp_path / "a.pth"))
    assert np.array_equal(checkpoint["best"], value)
    assert set(torch.serialization.get_safe_globals()) == admitted  # for others all is as before


# --------------------------------------------------------------------------------------- forged


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value):
    return b"\x8a\x08" + struct.pack("<q", value)


def sequence(*parts):
    return b"(" + b"".join(parts) + b"t"


def called(function, *arguments):
    return function + sequence(*arguments) + b"R"


def raw_bytes(value):
    """As protocol 2 writes them, the only one that PyTorch reads."""
    return called(name("_codecs", "encode"), text(value.decode()), text("latin1"))


def with_state(value, *state):
    return value + sequence(*state) + b"b"


NONE, FALSE, TRUE = b"N", b"\x89", b"\x88"
DTYPE, NDARRAY = name("numpy", "dtype"), name("numpy", "ndarray")
SCALAR = name("numpy._core.multiarray", "scalar")
RECONSTRUCT = name("numpy._core.multiarray", "_reconstruct")
FROMBUFFER = name("numpy._core.numeric", "_frombuffer")
ADDRESS = raw_bytes(b"A" * 8)
PLAIN_DTYPE = called(DTYPE, text("f8"), FALSE, TRUE)


def dtype(kind, flags, fields=(NONE, NONE, NONE)):
    made = called(DTYPE, text(kind), FALSE, TRUE)
    state = (number(3), text("|"), *fields, number(-1), number(-1), number(flags))
    return with_state(made, *state)


def array(kind=PLAIN_DTYPE, shape=(1,), raw=ADDRESS):
    empty = called(RECONSTRUCT, NDARRAY, sequence(number(0)), raw_bytes(b"b"))
    return with_state(empty, number(1), sequence(*map(number, shape)), kind, FALSE, raw)


REFUSED = {
    "objects": array(dtype("O8", 63)),
    "objects without their flags": array(dtype("O8", 1)),
    "one object": called(SCALAR, dtype("O8", 0), ADDRESS),
    "fields": array(dtype("f8", 0, (NONE, sequence(text("a")), b"}"))),
    "subarray": array(dtype("f8", 0, (sequence(PLAIN_DTYPE, sequence(number(9))), NONE, NONE))),
    "void": array(called(DTYPE, text("V8"), FALSE, TRUE)),
    "dates": array(called(DTYPE, text("M8[s]"), FALSE, TRUE)),
    "list of fields": array(called(DTYPE, text("f8,O"), FALSE, TRUE)),
    "type of a type": array(called(DTYPE, DTYPE, FALSE, TRUE)),
    "a call of ndarray": called(NDARRAY, sequence(number(1)), text("O"), ADDRESS),
    "ndarray by __new__": NDARRAY + sequence(sequence(number(1)), text("O"), ADDRESS) + b"\x81",
    "another class": called(RECONSTRUCT, name("builtins", "set"), sequence(number(0)), ADDRESS),
    "eval": called(name("builtins", "eval"), text("1")),
    "eval of Python 2": called(name("__builtin__", "eval"), text("1")),
    "within NumPy": called(name("numpy", "load"), text("/etc/passwd")),
    "a part of what is admitted": name("numpy", "ndarray.__class__"),
}
DAMAGED = {
    "too long": array(shape=(2**40,)),
    "too short": array(shape=(), raw=raw_bytes(b"A" * 9)),
    "negative": array(shape=(-1, -1)),
    "overflow": array(shape=(2**62, 4, 2), raw=raw_bytes(b"")),
    "overflow beside 0": array(shape=(0, 2**62, 2**62), raw=raw_bytes(b"")),
    "many dimensions": array(shape=[1] * 65),
    "text of length 0": array(called(DTYPE, text("S0"), FALSE, TRUE), [2**40], raw_bytes(b"")),
    "no type": array(kind=text("f8")),
    "unmade type": array(kind=DTYPE + b")\x81"),
    "no bytes": array(raw=number(10**9)),
    "short number": called(SCALAR, PLAIN_DTYPE, raw_bytes(b"A")),
    "short buffer": called(FROMBUFFER, ADDRESS, PLAIN_DTYPE, sequence(number(4)), text("C")),
    "order of a buffer": called(FROMBUFFER, ADDRESS, PLAIN_DTYPE, sequence(number(1)), text("?")),
    "axes of a buffer": called(
        FROMBUFFER, ADDRESS, PLAIN_DTYPE, sequence(number(1)), text("K"), sequence(number(7))
    ),
    "huge bytearray": called(name("builtins", "bytearray"), number(2**40)),
    "huge bytes": called(name("builtins", "bytes"), number(2**40)),
    "other encoding": called(name("_codecs", "encode"), text("a"), text("hex")),
    "state of a function": SCALAR + NONE + b"}" + text("__defaults__") + sequence(NONE) + b"s\x86b",
    "state of a class": NDARRAY + b"}" + text("__new__") + NONE + b"sb",
}  # fmt: skip


def pkl(value):
    return b"\x80\x02}" + text("w") + value + b"s."


def pth(value):
    """Saved as by torch.save: a zip file, with the forged value in the place of an entry."""
    buffer = io.BytesIO()
    torch.save({"model": {"w": torch.ones(1)}}, buffer)
    result = io.BytesIO()
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(result, "w") as new:
        for entry in old.namelist():
            new.writestr(entry, pkl(value) if entry.endswith("data.pkl") else old.read(entry))
    return result.getvalue()


READ_ALL = """
import sys
from instseg_d2.errors import WeightsError
from instseg_d2.weights.file import read_weights_file

for path in sys.argv[1:]:
    try:
        print(path, "READ", read_weights_file(path))
    except WeightsError as error:
        print(error)
"""


@pytest.mark.parametrize(("forge", "suffix"), [(pkl, "pkl"), (pth, "pth")], ids=["pkl", "pth"])
def test_forged_files_are_refused_and_harm_nothing(tmp_path, repo, forge, suffix):
    """In a process of its own, since what is tested is that it does not crash."""
    paths = {}
    for said, values in (("is refused: it holds '", REFUSED), ("cannot be read", DAMAGED)):
        for title, value in values.items():
            path = tmp_path / f"{title.replace(' ', '_')}.{suffix}"
            path.write_bytes(forge(value))
            paths[str(path)] = said
    result = subprocess.run(
        [sys.executable, "-c", READ_ALL, *paths],
        cwd=repo,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == len(paths)
    for (path, said), line in zip(paths.items(), lines, strict=True):
        assert line.startswith(path)
        assert said in line, line


def test_the_forger_can_also_make_an_honest_file(tmp_path):
    """Else the tests above might pass for a reason of their own."""
    (tmp_path / "a.pkl").write_bytes(pkl(array(dtype("f8", 0))))
    value = read_weights_file(str(tmp_path / "a.pkl"))["model"]["w"]
    assert value.tolist() == [struct.unpack("<d", b"A" * 8)[0]]
    number_of_numpy = called(SCALAR, dtype("i8", 0), ADDRESS)
    assert unpickle(pkl(number_of_numpy)) == {"w": struct.unpack("<q", b"A" * 8)[0]}


def test_the_message_names_what_is_refused(tmp_path):
    (tmp_path / "a.pkl").write_bytes(pkl(REFUSED["objects"]))
    with pytest.raises(WeightsError, match=r"a\.pkl is refused: it holds 'numpy\.dtype 'O8''"):
        read_weights_file(str(tmp_path / "a.pkl"))
