"""Damage to valid files: to their bytes, and to what they say."""

from __future__ import annotations

import copy
import io
import json
import pickletools
import struct
import zipfile
from typing import Any

import numpy as np

from tests.torch7_writer import mutated

__all__ = ["mutated", "mutated_json", "mutated_pickle", "mutated_zip", "pick", "spliced"]

_DEEP, _LONG = "<deep>", "<long>"
_ODD_JSON = (
    *(None, True, False, 0, -1, 1, 3, 0.5, 1e308, -1e308, float("nan"), float("inf")),
    *(2**31, 2**32 - 1, 2**63, 2**64, -(2**63), 10**400, 65535, 65536, 1_000_000),
    *(
        "",
        "x",
        "\ud800",
        "\0",
        "0" * 300,
        "nnnnnnnnnnnn",
        "o1",
        "PPPPPPP0",
        "../../x",
        _DEEP,
        _LONG,
    ),
    *([], {}, [[]], [{}], [1], [1, 2, 3], [[1, 2]], [1e9, 0] * 4, {"size": [2, 3], "counts": "6"}),
    {"size": [2**16 - 1, 2**16 - 1], "counts": [0, (2**16 - 1) ** 2]},
    {"size": [3, 3], "counts": [-5, 7, 7]},
)
_ODD_OPCODES = (
    *(b"N", b"}", b"]", b")", b"(", b"t", b"\x85", b"\x86", b"0", b"1", b"2", b".", b"R", b"b"),
    *(b"s", b"u", b"a", b"e", b"\x81", b"\x90", b"\x91", b"\x8f", b"\x94", b"h\0", b"q\0", b"Q"),
    *(
        b"\x95" + b"\xff" * 8,
        b"\x82\x01",
        b"r\xff\xff\xff\x7f",
        b"p999999999999\n",
        b"\x97",
        b"\x98",
    ),
    *(b"cos\nsystem\n", b"cbuiltins\nbytearray\n", b"cnumpy\nndarray\n", b"\x8d" + b"\xff" * 8),
    *(
        b")" + b"\x85" * 5000,
        b")" + b"2\x86" * 70,
        b"\x8b\xff\xff\xff\x7f",
        b"I" + b"9" * 5000 + b"\n",
    ),
    *(
        b"(ios\nsystem\n",
        b"Pid\n",
        b"J\xff\xff\xff\x7f",
        b"\x8a\x08" + b"\x7f" * 8,
        b"G" + b"\x7f" * 8,
    ),
)


def pick(generator: np.random.Generator, values: Any) -> Any:
    """One of several."""
    return values[int(generator.integers(len(values)))]


def spliced(raw: bytes, other: bytes, generator: np.random.Generator) -> bytes:
    """The beginning of one file and the end of another."""
    return raw[: generator.integers(len(raw) + 1)] + other[generator.integers(len(other) + 1) :]


def mutated_json(content: Any, generator: np.random.Generator) -> bytes:
    """JSON text in which a few values are others, lacking, or those of another place."""
    content = copy.deepcopy(content)
    for _ in range(generator.integers(1, 4)):
        places = list(_places(content))
        if not places:
            break
        container, key = pick(generator, places)
        choice = generator.integers(8)
        if choice == 0:
            del container[key]
        elif choice == 1 and isinstance(container, list):
            container.insert(key, copy.deepcopy(container[key]))
        elif choice == 2:
            other, its_key = pick(generator, places)
            container[key] = copy.deepcopy(other[its_key])
        elif choice == 3 and type(container[key]) in (int, float):
            container[key] *= pick(generator, (-1, 0, 2, 1000, 2**20))
        else:
            container[key] = copy.deepcopy(pick(generator, _ODD_JSON))
    text = json.dumps(content)
    text = text.replace(f'"{_DEEP}"', "[" * 20_000 + "]" * 20_000)
    raw = text.replace(f'"{_LONG}"', "9" * 5000).encode()
    return mutated(raw, generator) if generator.integers(5) == 0 else raw


def _places(content: Any) -> Any:
    """Every (container, key) in a value."""
    items = content.items() if isinstance(content, dict) else ()
    items = enumerate(content) if isinstance(content, list) else items
    for key, value in items:
        yield content, key
        yield from _places(value)


def mutated_pickle(raw: bytes, generator: np.random.Generator) -> bytes:
    """A pickle with opcodes that are others, lacking, doubled or in another order."""
    starts = [place for _, _, place in pickletools.genops(raw)]
    parts = [raw[a:b] for a, b in zip(starts, [*starts[1:], len(raw)], strict=True)]
    for _ in range(generator.integers(1, 5)):
        at = int(generator.integers(len(parts)))
        choice = generator.integers(6)
        if choice == 0:
            parts[at] = pick(generator, parts)
        elif choice == 1:
            parts.insert(at, pick(generator, parts))
        elif choice == 2 and len(parts) > 1:
            del parts[at]
        elif choice == 3 and len(parts[at]) > 1:
            extreme = pick(generator, (0, 1, 0x7F, 0x80, 0xFF))
            parts[at] = parts[at][:1] + bytes([extreme]) * (len(parts[at]) - 1)
        else:
            parts.insert(at, pick(generator, _ODD_OPCODES))
    return b"".join(parts)


def mutated_zip(raw: bytes, generator: np.random.Generator) -> bytes:
    """A zip file, valid as such, with a record that is another."""
    result = io.BytesIO()
    how = pick(generator, (zipfile.ZIP_STORED,) * 9 + (zipfile.ZIP_DEFLATED,))
    with zipfile.ZipFile(io.BytesIO(raw)) as old, zipfile.ZipFile(result, "w", how) as new:
        names = old.namelist()
        chosen = pick(generator, names)
        if generator.integers(3):
            chosen = next(name for name in names if name.endswith("data.pkl"))
        for name in names:
            content = old.read(name)
            if name == chosen:
                is_pickle = name.endswith(".pkl")
                content = (mutated_pickle if is_pickle else mutated)(content, generator)
            new.writestr(name, content)
    return result.getvalue()


def mutated_safetensors(raw: bytes, generator: np.random.Generator) -> bytes:
    """Another header, with its right length or without."""
    length = struct.unpack("<Q", raw[:8])[0]
    header = mutated_json(json.loads(raw[8 : 8 + length]), generator)
    stated = pick(generator, (len(header),) * 9 + (2**62,))
    return struct.pack("<Q", stated) + header + raw[8 + length :]
