"""What a case of the table is, and how it is run."""

from __future__ import annotations

import importlib
import re
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Case:
    """A slip of a user, and what the program says.

    Attributes:
        name: what is wrong.
        command: the program and its arguments, as typed; ``{name}`` stands for one of the words
            that the test run has prepared, such as the overrides of a tiny model.
        says: the error in full, without ``error: ``; ``...`` stands for any text in it.
        files: writes what the command reads into the folder that it runs in.
        status: the exit status.
    """

    name: str
    command: str
    says: str
    files: Callable[[Path], object] | None = None
    status: int = 1

    def argv(self, words: Mapping[str, str]) -> list[str]:
        """The program's module and its arguments."""
        program, *arguments = shlex.split(self.command.format_map(words))
        return [program.removesuffix(".py").replace("/", "."), *arguments]

    @property
    def pattern(self) -> str:
        """A regular expression of :attr:`says`."""
        return ".*".join(map(re.escape, self.says.split("...")))


@dataclass(frozen=True)
class Ended:
    """How a program ended: its exit status, all that it printed, and its last line on stderr."""

    status: int
    printed: str
    last_line: str


def run_here(
    argv: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Ended:
    """Run a program's ``main`` in this process, as the interpreter would."""
    module = importlib.import_module(argv[0])
    monkeypatch.setattr(sys, "argv", [f"{argv[0].rpartition('.')[2]}.py", *argv[1:]])
    code: object = None
    try:
        module.main()
    except SystemExit as stopped:
        code = stopped.code
    if isinstance(code, str):
        print(code, file=sys.stderr)
    status = code if isinstance(code, int) else int(code is not None)
    out, err = capfd.readouterr()
    return Ended(status, out + err, err.strip().split("\n")[-1])


#: What a program may leave behind without having succeeded: logs, and the config that it ran with.
LOGS = re.compile(
    r"log\.txt(\.rank\d+)?|console\.txt|metrics\.json|config\.yaml|events\.out\..*|last_checkpoint"
)


def results_in(folder: Path) -> set[str]:
    """The files that look like results."""
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file()
        and not LOGS.fullmatch(path.name)
        and not path.parent.name.endswith("_parts")  # where make_proposals.py goes on from
    }
