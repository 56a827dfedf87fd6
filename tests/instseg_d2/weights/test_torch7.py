"""The reader of Torch7's files: what it makes of them, and of damaged and forged ones."""

import os
import struct

import numpy as np
import pytest

from instseg_d2.errors import WeightsError
from instseg_d2.weights.torch7 import MAX_DEPTH, STARTS, TorchObject, read_torch7
from tests.torch7_writer import (
    Function,
    Storage,
    Tensor,
    mutated,
    tensor,
    torch7_bytes,
    write_torch7,
)

NUMBERS = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
EMPTY = Tensor(Storage(np.zeros(0)), (), ())
#: Random changes to a valid file; with 100000 the test takes some minutes.
MUTATIONS = int(os.environ.get("INSTSEG_D2_MUTATIONS", "3000"))


def there_and_back(tmp_path, value, **options):
    return read_torch7(write_torch7(tmp_path / "a.t7", value, **options))


def read(tmp_path, raw):
    (tmp_path / "a.t7").write_bytes(raw)
    return read_torch7(str(tmp_path / "a.t7"))


def int32(*values):
    return struct.pack(f"<{len(values)}i", *values)


def int64(*values):
    return struct.pack(f"<{len(values)}q", *values)


def head(name):
    """The start of an object with the index 1."""
    return int32(4, 1, 3) + b"V 1" + int32(len(name)) + name.encode()


def forged_tensor(sizes, strides, offset, length=4, kind="Float", storage_kind="Float"):
    storage = head(f"torch.{storage_kind}Storage").replace(int32(4, 1), int32(4, 2), 1)
    itemsize = 8 if storage_kind == "Double" else 4
    return (
        head(f"torch.{kind}Tensor")
        + int32(len(sizes))
        + int64(*sizes, *strides, offset)
        + storage
        + int64(length)
        + bytes(max(min(length, 1000), 0) * itemsize)
    )


def network():
    """A little of everything, in less than 2 KiB."""
    shared = Storage(np.arange(20, dtype=np.float32))
    linear = TorchObject("nn.Linear", {"weight": Tensor(shared, (3, 4), (4, 1), 2), "train": True})
    linear.fields["bias"] = Tensor(shared, (3,), (5,), 1, cuda=True)
    unknown = TorchObject("my.Own", {"module": linear, "text": "ä", "nothing": None, 0.5: 1})
    unknown.fields["self"] = unknown
    return {
        "model": TorchObject("nn.Sequential", {"modules": [linear, unknown, linear]}),
        "call": Function(upvalues=[linear, 3]),
        "sizes": Storage(np.array([1, 2, 3])),
        "empty": EMPTY,
    }


# ------------------------------------------------------------------------------------- valid files


@pytest.mark.parametrize("value", [0, -2.5, float("inf"), 1e300, "", "text", "ä\0b", True, False])
def test_plain_values(tmp_path, value):
    read_value = there_and_back(tmp_path, value)
    assert read_value == value
    assert isinstance(read_value, bool) == isinstance(value, bool)
    assert there_and_back(tmp_path, [value, None]) == {1: value, 2: None}


def test_tables(tmp_path):
    table = {"a": {0: "zero", 1: "one", -0.5: "half"}, 2: [], "b": ["x", ["y"]]}
    expected = {"a": {0: "zero", 1: "one", -0.5: "half"}, 2: {}, "b": {1: "x", 2: {1: "y"}}}
    assert there_and_back(tmp_path, table) == expected


def test_entries_with_odd_keys_are_left_out(tmp_path):
    raw = int32(3, 1, 3) + int32(5, 1, 2, 1) + b"t" + int32(3, 2, 0, 2, 1) + b"u"
    assert read(tmp_path, raw + int32(2, 1) + b"k" + int32(2, 1) + b"v") == {"k": "v"}


@pytest.mark.parametrize("cuda", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "i1", "<i2", "<i4", "<i8", "<f2", "<f4", "<f8"])
def test_tensors_and_storages(tmp_path, dtype, cuda):
    array = NUMBERS.astype(dtype)
    loaded = there_and_back(tmp_path, {"t": tensor(array, cuda), "s": Storage(array.reshape(-1))})
    assert loaded["t"].dtype == loaded["s"].dtype == array.dtype
    assert np.array_equal(loaded["t"], array)
    assert np.array_equal(loaded["s"], array.reshape(-1))


def test_tensors_of_one_storage(tmp_path):
    storage = Storage(np.arange(30, dtype=np.float64))
    views = [
        Tensor(storage, (2, 3), (10, 2), 5),
        Tensor(storage, (3, 2), (2, 10), 5),
        Tensor(storage, (4, 2), (0, 1), 28),
        Tensor(storage, (1,), (2**60,), 29),
    ]
    first, transposed, repeated, last = there_and_back(tmp_path, views).values()
    assert first.tolist() == [[5, 7, 9], [15, 17, 19]]
    assert transposed.tolist() == first.T.tolist()
    assert repeated.tolist() == [[28, 29]] * 4
    assert last.tolist() == [29]
    assert np.shares_memory(first, transposed)


def test_empty_tensors(tmp_path):
    assert there_and_back(tmp_path, EMPTY).shape == (0,)
    assert there_and_back(tmp_path, np.zeros((2, 0))).shape == (0,)
    assert read(tmp_path, forged_tensor([0, 2**62], [1, 1], 1)).shape == (0,)


@pytest.mark.parametrize("with_versions", [True, False])
def test_objects_are_shared_and_may_refer_to_themselves(tmp_path, with_versions):
    loaded = there_and_back(tmp_path, network(), with_versions=with_versions)
    first, unknown, third = loaded["model"].fields["modules"].values()
    assert loaded["model"].class_name == "nn.Sequential"
    assert first is third is unknown.fields["module"]
    assert unknown.class_name == "my.Own"
    assert unknown.fields["self"] is unknown
    assert unknown.fields[0.5] == 1
    assert first.fields["train"] is True
    assert first.fields["weight"].tolist() == [[2, 3, 4, 5], [6, 7, 8, 9], [10, 11, 12, 13]]
    assert first.fields["bias"].tolist() == [1, 6, 11]
    assert loaded["sizes"].tolist() == [1, 2, 3]


@pytest.mark.parametrize("kind", [6, 7, 8])
def test_functions_are_passed_over(tmp_path, kind):
    function = Function(kind, bytecode=b"\x1bLJ os.exit", upvalues=[{"name": "x"}, 7])
    assert there_and_back(tmp_path, [function, 2, function]) == {1: None, 2: 2, 3: None}


def test_what_another_reader_reads(tmp_path):
    torchfile = pytest.importorskip("torchfile", reason="torchfile, another reader, is absent")
    storage = Storage(NUMBERS.reshape(-1))
    value = {"a": Tensor(storage, (3, 2), (1, 4), 3), "b": storage, "c": "text", "d": True}
    path = write_torch7(tmp_path / "a.t7", TorchObject("nn.Linear", value))
    theirs, ours = torchfile.load(path), read_torch7(path)
    assert theirs.torch_typename() == b"nn.Linear"
    for name in ("a", "b"):
        assert np.array_equal(theirs[name], ours.fields[name])
    assert (theirs["c"], theirs["d"]) == (b"text", True)


# ----------------------------------------------------------------------------------- refused files


def test_files_that_end_too_early(tmp_path):
    raw = torch7_bytes(network())
    for end in range(len(raw)):
        with pytest.raises(WeightsError, match=r"a\.t7 cannot be read .* at byte \d+"):
            read(tmp_path, raw[:end])


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (int32(9), "a value of type 9 stands, which Torch7 does not have, at byte 0. It is"),
        (b"PK\3\4rest", "a value of type 67324752"),
        (b"\x80\x02}q\x00", "a value of type"),
        (int32(2, -1), r"a string of -1 bytes begins where 0 are left, at byte 8"),
        (int32(2, 2**31 - 1) + b"abc", "a string of 2147483647 bytes begins where 3 are left"),
        (int32(3, 1, -1), "a table of -1 entries begins at byte 8"),
        (int32(3, 1, 2**31 - 1) + bytes(99), "a table of 2147483647 entries"),
        (int32(6, 2**30), "a function of 1073741824 bytes"),
        (head("x\n") + int32(0), r"the name of a class is 'x\\n'"),
        (head("x" * 101) + int32(0), "the name of a class"),
        (head("my.Own") + int32(0), r"no table but a NoneType at byte 25 \(within my\.Own\)"),
        (head("my.Own") + int32(1) + bytes(8), "no table but a float"),
        (head("torch.FloatStorage") + int64(2**61), r"a storage of 9223372036854775808 bytes"),
        (head("torch.FloatStorage") + int64(-1), r"a storage of -4 bytes"),
        (head("torch.FloatTensor") + int32(-1), "a tensor of -1 dimensions"),
        (head("torch.FloatTensor") + int32(2**31 - 1), "a tensor of 2147483647 dimensions"),
        (head("torch.FloatTensor") + int32(0) + int64(1) + int32(4, 1), None),
        (head("torch.FloatTensor") + int32(1) + int64(2, 1, 1) + int32(4, 1), "does not lie in"),
        (head("torch.FloatTensor") + int32(1) + int64(2, 1, 1) + int32(3, 2, 0), "something else"),
        (forged_tensor([5], [1], 1), "does not lie in its storage of 4 numbers"),
        (forged_tensor([2], [4], 1), "does not lie"),
        (forged_tensor([4], [1], 2), "does not lie"),
        (forged_tensor([4], [1], 0), "offset -1 does not lie"),
        (forged_tensor([2], [-1], 3), "does not lie"),
        (forged_tensor([-2], [1], 1), "does not lie"),
        (forged_tensor([2**62, 2], [1, 1], 1), "does not lie"),
        (forged_tensor([2**62, 4], [0, 1], 1), "does not lie"),
        (forged_tensor([1] * 33, [1] * 33, 1), "a tensor of 33 dimensions"),
        (forged_tensor([4], [1], 1, kind="Double"), "something else than a storage of its type"),
        (b"4\n1\n3\nV 1\n", r"text format.*torch\.save\(name, torch\.load\(path, 'ascii'\)\)"),
    ],
)
def test_forged_files(tmp_path, raw, said):
    if said is None:  # a tensor without numbers that is its own storage
        assert read(tmp_path, raw).shape == (0,)
        return
    with pytest.raises(WeightsError, match=said):
        read(tmp_path, raw)


@pytest.mark.parametrize(
    "layer",
    [
        lambda index: int32(3, index, 1, 5, 1),  # as the value of a table
        lambda index: int32(3, index, 1),  # as the key
        lambda index: int32(4, index, 1) + b"x",
        lambda index: int32(6, 0),
        lambda index: int32(4, index, 17) + b"torch.FloatTensor" + int32(0) + int64(1),
    ],
)
def test_deep_nesting(tmp_path, layer):
    raw = b"".join(layer(index) for index in range(1, 50_000)) + bytes(400_000)
    with pytest.raises(WeightsError, match=f"nested more than {MAX_DEPTH} deep"):
        read(tmp_path, raw)


def test_nesting_of_real_networks(tmp_path):
    value = "innermost"
    for _ in range(MAX_DEPTH):
        value = [value]
    loaded = there_and_back(tmp_path, value)
    for _ in range(MAX_DEPTH):
        loaded = loaded[1]
    assert loaded == "innermost"


def test_first_bytes():
    assert torch7_bytes({}).startswith(STARTS[0])
    assert torch7_bytes(TorchObject("nn.Linear")).startswith(STARTS[1])


def test_random_changes_never_crash(tmp_path):
    original = torch7_bytes(network())
    generator = np.random.default_rng(0)
    messages = []
    for _ in range(MUTATIONS):
        try:
            walk(read(tmp_path, mutated(original, generator)))
        except WeightsError as error:
            messages.append(str(error))
    assert 0.2 < len(messages) / MUTATIONS < 0.99
    assert all("a.t7" in message for message in messages)


def walk(value):
    """Look at all that was read: each number of each tensor must lie in memory that is its own."""
    waiting, seen = [value], set()
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, np.ndarray) and value.size < 10_000:
            value.tobytes()
        elif isinstance(value, TorchObject):
            waiting.append(value.fields)
        elif isinstance(value, dict):
            waiting += value.values()
        else:
            assert isinstance(value, np.ndarray | float | str | bool | None)
