"""What a run has noted is there for the next one, however it ended."""

import multiprocessing
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from instseg_d2.errors import ConfigError
from instseg_d2.part_file import PartFile, entries_of
from instseg_d2.run_settings import Settings

SETTINGS = Settings({"weights": "abc", "sizes": (1, 2), "config": {"A": "1"}})


def note(path: Path, entries: dict[Any, Any], settings: Settings = SETTINGS) -> None:
    with PartFile(path, settings) as part:
        for key, value in entries.items():
            part.add(key, value)


def content(path: Path, settings: Settings = SETTINGS) -> dict[Any, Any]:
    with PartFile(path, settings) as part:
        return {key: part[key] for key in part._places}


ENTRIES = {1: {"score": 0.1 + 0.2}, "1": [], "a\udcff\n": None, 2**40: [1, 2]}


def test_what_was_noted_is_found_again(tmp_path: Path) -> None:
    path = tmp_path / "a.part"
    note(path, ENTRIES)
    assert content(path) == dict(entries_of(path, SETTINGS)) == ENTRIES
    note(path, {3: "more", 1: "again"})
    assert content(path) == {**ENTRIES, 3: "more", 1: "again"}
    with PartFile(path, SETTINGS) as part:
        assert (len(part), 3 in part, 4 in part, part.differences) == (5, True, False, [])
        part.remove()
    assert list(tmp_path.iterdir()) == []
    assert list(entries_of(path, SETTINGS)) == []


def test_any_cut_leaves_the_whole_lines_before_it(tmp_path: Path) -> None:
    path = tmp_path / "a.part"
    note(path, ENTRIES)
    whole = path.read_bytes()
    ends = [index + 1 for index, byte in enumerate(whole) if byte == ord("\n")]
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        kept = max(0, sum(end <= length for end in ends) - 1)
        wanted = dict(list(ENTRIES.items())[:kept])
        assert dict(entries_of(path, SETTINGS)) == wanted
        note(path, {"new": length})
        assert content(path) == {**wanted, "new": length}


@pytest.mark.parametrize(
    "damage", [b"\0\0\0\0\0\n", b"[1, 2\n", b"[[1], 2]\n", b"{}\n", b"[" * 9999]
)
def test_what_is_behind_damage_does_not_count(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "a.part"
    note(path, {1: "a", 2: "b"})
    head, first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(head + first + damage + second)
    assert content(path) == {1: "a"}
    path.write_bytes(damage + first + second)
    assert content(path) == {}


def test_other_settings_begin_anew_and_say_so(tmp_path: Path) -> None:
    path = tmp_path / "a.part"
    note(path, ENTRIES)
    other = Settings({**SETTINGS.content, "config": {"A": "2"}})
    assert list(entries_of(path, other)) == []
    with PartFile(path, other) as part:
        assert part.differences == ["A: 1 and 2"]
        assert len(part) == 0
    assert content(path, other) == {}


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.part"
    with PartFile(path, SETTINGS) as part:
        part.add(1, "a")
        with pytest.raises(ConfigError, match=r"another run is writing .*a\.part"):
            PartFile(path, SETTINGS)
        part.add(2, "b")
    assert content(path) == {1: "a", 2: "b"}


def test_the_workers_of_a_run_do_not_keep_its_lock(tmp_path: Path) -> None:
    path = tmp_path / "a.part"
    context = multiprocessing.get_context("fork")
    is_over = context.Event()
    with PartFile(path, SETTINGS) as part:
        worker = context.Process(target=is_over.wait)
        worker.start()
        with pytest.raises(ConfigError, match="another run"):
            PartFile(path, SETTINGS)
        part.add(1, "a")
    try:
        assert content(path) == {1: "a"}
    finally:
        is_over.set()
        worker.join()


def test_a_full_disk_keeps_what_was_noted(tmp_path: Path) -> None:
    path = tmp_path / "a.part"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with PartFile(path, SETTINGS) as part:
            part.add(1, "a")
            resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, limits[1]))
            with pytest.raises(OSError, match="File too large"):
                part.add(2, "b" * 100)
            assert 2 not in part
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert not path.read_bytes().endswith(b"\n")  # a piece of the line is there
    assert content(path) == {1: "a"}


def test_a_killed_process_loses_nothing(tmp_path: Path) -> None:
    """Nor does its lock stay."""
    path = tmp_path / "a.part"
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from instseg_d2.part_file import PartFile\n"
        "from instseg_d2.run_settings import Settings\n"
        "part = PartFile(Path(sys.argv[1]), Settings({'a': 1}))\n"
        "for number in range(1000):\n"
        "    part.add(number, 'x' * number)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert content(path, Settings({"a": 1})) == {number: "x" * number for number in range(1000)}
