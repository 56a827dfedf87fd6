"""What a pickle would cost, found by following its opcodes without building anything.

A pickle of a few bytes can make Python's unpickler take tens of gigabytes (for a note with a high
number, or for text of a declared length), end the process (by hashing tuples that are nested a
million deep) or compute for years (by hashing a tuple whose parts are shared 60 levels deep). None
of that runs code, so that a list of admitted names does not help. :func:`check_pickle` follows the
stack machine with the sizes of values in place of the values.
"""

from __future__ import annotations

import pickle
import pickletools
from collections.abc import Callable
from typing import IO, Any, NamedTuple

MAX_DEPTH = 200
"""Tuples within tuples."""

MAX_WORK = 1_000_000
"""Values that are looked at to hash keys, and so many more for each opcode:"""

WORK_PER_OPCODE = 20

MAX_NOTE = 100_000
"""Of the numbers of notes; in larger files as many as there are bytes."""

_SHORT = 200
"""Bytes of a text that is kept."""

OnStorage = Callable[[str, str, Any], None]
"""Takes type, key and length of a storage of PyTorch that the pickle refers to, and may raise."""


class Value(NamedTuple):
    """What is known of a value on the stack.

    Attributes:
        depth: tuples within tuples; 0: no tuple.
        weight: values that are looked at to hash it.
        content: a whole number, a short text, or of a short tuple the contents; None: not kept.
    """

    depth: int = 0
    weight: int = 1
    content: Any = None


_ANY = Value()


def check_pickle(file: IO[bytes], on_storage: OnStorage | None = None) -> None:
    """Follow the pickle that begins where the file stands, up to its end, where the file then is.

    Args:
        file: can be sought in.
        on_storage: called for each reference to a storage in the files of PyTorch.

    Raises:
        pickle.UnpicklingError: the pickle is damaged, or takes more time or memory than its length
            can explain.
    """
    _Follower(file, on_storage).follow()


class _Opcode(NamedTuple):
    """How an opcode changes the stack.

    Attributes:
        argument: bytes; if negative as in ``pickletools``: a line, or a length of its own.
        lines: of the argument, where it is written in lines.
        takes: values below the mark, or from the top of the stack.
        to_mark: whether it takes everything up to the last mark.
        gives: whether it puts a value on the stack.
        act: what else it does.
    """

    name: str
    argument: int
    lines: int
    takes: int
    to_mark: bool
    gives: bool
    act: Callable[[_Follower, _Opcode, bytes], None]


class _Follower:
    def __init__(self, file: IO[bytes], on_storage: OnStorage | None) -> None:
        self.file = file
        self.on_storage = on_storage
        start = file.tell()
        self.size = file.seek(0, 2)
        file.seek(start)
        self.max_note = max(MAX_NOTE, self.size - start)
        self.stack: list[Value] = []
        self.marks: list[int] = []
        self.notes: dict[int, Value] = {}
        self.work = 0

    def follow(self) -> None:
        count, read, opcodes = 0, self.file.read, _OPCODES
        while True:
            code = read(1)
            opcode = opcodes.get(code)
            if opcode is None:
                raise pickle.UnpicklingError(f"cut off, or no pickle: {code!r} is no opcode")
            length = opcode.argument
            argument = read(length) if length >= 0 else self.long_argument(opcode)
            if len(argument) < length:
                raise pickle.UnpicklingError("cut off")
            if opcode.name == "STOP":
                return
            opcode.act(self, opcode, argument)
            count += 1
            if self.work > MAX_WORK + WORK_PER_OPCODE * count:
                raise pickle.UnpicklingError("its keys take too long to hash")

    def long_argument(self, opcode: _Opcode) -> bytes:
        """The bytes of an argument; of a long one, which is passed over, none."""
        if opcode.argument == pickletools.UP_TO_NEWLINE:
            return b" ".join(self.file.readline()[:-1] for _ in range(opcode.lines))
        width, signed = _LENGTHS[opcode.argument]
        length = int.from_bytes(self.file.read(width), "little", signed=signed)
        if 0 <= length <= _SHORT:
            return self.file.read(length)
        self.require(length)
        self.file.seek(length, 1)
        return b""

    def require(self, length: int) -> None:
        """See that so many bytes are left."""
        if not 0 <= length <= self.size - self.file.tell():
            raise pickle.UnpicklingError(f"a value of {length} bytes does not fit into the file")

    def take(self, count: int) -> list[Value]:
        """Values from the top of the stack, not from below a mark."""
        start = len(self.stack) - count
        if start < (self.marks[-1] if self.marks else 0):
            raise pickle.UnpicklingError("it takes values that it has not")
        taken = self.stack[start:]
        del self.stack[start:]
        return taken

    def take_to_mark(self) -> list[Value]:
        if not self.marks:
            raise pickle.UnpicklingError("it looks for a mark that it has not")
        mark = self.marks.pop()
        taken = self.stack[mark:]
        del self.stack[mark:]
        return taken

    # ---- what opcodes do -------------------------------------------------------------------------

    def other(self, opcode: _Opcode, argument: bytes) -> None:
        """Take and give values that nothing is to be known of."""
        if opcode.to_mark:
            self.take_to_mark()
        if opcode.takes:
            self.take(opcode.takes)
        if opcode.gives:
            self.stack.append(_ANY)

    def number(self, opcode: _Opcode, argument: bytes) -> None:
        signed = opcode.name in ("BININT", "LONG1")
        self.stack.append(Value(0, 1, int.from_bytes(argument, "little", signed=signed)))

    def text(self, opcode: _Opcode, argument: bytes) -> None:
        self.stack.append(Value(0, 1, argument.decode("latin1")))

    def frame(self, opcode: _Opcode, argument: bytes) -> None:
        self.require(int.from_bytes(argument, "little"))

    def mark(self, opcode: _Opcode, argument: bytes) -> None:
        self.marks.append(len(self.stack))

    def pop(self, opcode: _Opcode, argument: bytes) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.take(1)

    def duplicate(self, opcode: _Opcode, argument: bytes) -> None:
        self.stack += self.take(1) * 2

    def put(self, opcode: _Opcode, argument: bytes) -> None:
        number = len(self.notes) if opcode.name == "MEMOIZE" else _note_number(opcode, argument)
        if not 0 <= number <= self.max_note:
            raise pickle.UnpicklingError(f"it numbers one of its values {number}")
        if not self.stack or (self.marks and self.marks[-1] == len(self.stack)):
            raise pickle.UnpicklingError("it notes a value that it has not")
        self.notes[number] = self.stack[-1]

    def get(self, opcode: _Opcode, argument: bytes) -> None:
        note = self.notes.get(_note_number(opcode, argument))
        if note is None:
            raise pickle.UnpicklingError("it refers to a value that it has not")
        self.stack.append(note)

    def tuple(self, opcode: _Opcode, argument: bytes) -> None:
        """Also a frozenset, which can be hashed and nested likewise."""
        values = self.take_to_mark() if opcode.to_mark else self.take(opcode.takes)
        depth = 1 + max([value[0] for value in values], default=0)
        weight = 1 + sum([value[1] for value in values])
        if depth > MAX_DEPTH:
            raise pickle.UnpicklingError(f"tuples are nested more than {MAX_DEPTH} deep")
        if opcode.name == "FROZENSET":
            self.work += weight
        content = None
        if len(values) <= 6:  # of tuples within it nothing: they may be of the same tuples
            content = tuple([None if value[0] else value[2] for value in values])
        self.stack.append(Value(depth, min(weight, 2**62), content))

    def key(self, opcode: _Opcode, argument: bytes) -> None:
        """Hash keys, or members of a set."""
        values = self.take_to_mark() if opcode.to_mark else self.take(2)
        keys = values if opcode.name == "ADDITEMS" else values[::2]
        self.work += sum([key[1] for key in keys])
        if opcode.name != "DICT":
            self.take(1)
        self.stack.append(_ANY)

    def call(self, opcode: _Opcode, argument: bytes) -> None:
        """Call something, or give an object its state; that may hash what it is given."""
        values = self.take_to_mark() if opcode.to_mark else []
        values += self.take(opcode.takes)
        self.work += sum([value[1] for value in values])
        self.stack.append(_ANY)

    def storage(self, opcode: _Opcode, argument: bytes) -> None:
        content = self.take(1)[0].content
        self.stack.append(_ANY)
        if self.on_storage is None:
            return
        # ("storage", type, key, device, length); the old format has a part of it behind that.
        if isinstance(content, tuple) and len(content) in (5, 6):
            _, kind, key, _, length = content[:5]
            if not isinstance(kind, str) or not isinstance(key, str):
                raise pickle.UnpicklingError("a storage whose kind or key is no short text")
            self.on_storage(kind, key, length)
        elif not isinstance(content, tuple) or content[:1] != ("module",):  # refused by PyTorch
            raise pickle.UnpicklingError("it refers to something else than a storage")


def _note_number(opcode: _Opcode, argument: bytes) -> int:
    return int(argument) if opcode.argument < 0 else int.from_bytes(argument, "little")


_LENGTHS = {
    pickletools.TAKEN_FROM_ARGUMENT1: (1, False),
    pickletools.TAKEN_FROM_ARGUMENT4: (4, True),
    pickletools.TAKEN_FROM_ARGUMENT4U: (4, False),
    pickletools.TAKEN_FROM_ARGUMENT8U: (8, False),
}
"""How the length of an argument is written: bytes, and whether with a sign."""

_ACTS = {
    _Follower.number: "BININT BININT1 BININT2 LONG1",
    _Follower.text: "BINUNICODE SHORT_BINUNICODE BINSTRING SHORT_BINSTRING GLOBAL",
    _Follower.frame: "FRAME",
    _Follower.mark: "MARK",
    _Follower.pop: "POP",
    _Follower.duplicate: "DUP",
    _Follower.put: "PUT BINPUT LONG_BINPUT MEMOIZE",
    _Follower.get: "GET BINGET LONG_BINGET",
    _Follower.tuple: "EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 FROZENSET",
    _Follower.key: "SETITEM SETITEMS DICT ADDITEMS",
    _Follower.call: "REDUCE NEWOBJ NEWOBJ_EX INST OBJ BUILD",
    _Follower.storage: "BINPERSID",
}
_ACT_OF = {name: act for act, names in _ACTS.items() for name in names.split()}


def _described(opcode: pickletools.OpcodeInfo) -> _Opcode:
    before, argument = opcode.stack_before, opcode.arg
    to_mark = pickletools.markobject in before
    return _Opcode(
        opcode.name,
        argument.n if argument is not None else 0,
        2 if argument is not None and argument.name == "stringnl_noescape_pair" else 1,
        before.index(pickletools.markobject) if to_mark else len(before),
        to_mark,
        bool(opcode.stack_after),
        _ACT_OF.get(opcode.name, _Follower.other),
    )


_OPCODES = {opcode.code.encode("latin1"): _described(opcode) for opcode in pickletools.opcodes}
