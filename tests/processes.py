"""What this process and its children have in memory and open, by /proc (Linux)."""

import ctypes
import gc
import os
import threading
from dataclasses import dataclass
from pathlib import Path

_MEGABYTE = 2**20


@dataclass(frozen=True)
class Usage:
    """At one moment.

    Attributes:
        memory: megabytes that this process has in RAM, without what the allocator only holds back.
        of_children: megabytes that are of its children alone: copies of its pages count, pages
            that they share with it do not.
        files: open file descriptors.
        threads: of Python.
        children: processes.
    """

    memory: float
    of_children: float
    files: int
    threads: int
    children: int


def usage() -> Usage:
    """Of now; garbage is collected before."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    pids = child_pids()
    return Usage(
        memory=_resident_bytes() / _MEGABYTE,
        of_children=sum(map(_private_bytes, pids)) / _MEGABYTE,
        files=len(list(Path("/proc/self/fd").iterdir())),
        threads=threading.active_count(),
        children=len(pids),
    )


def child_pids() -> list[int]:
    """Of all processes that this one started and that have not ended, but Python's own tracker of
    shared memory, which lives as long as this one."""
    lists = [_content(task / "children") for task in Path("/proc/self/task").iterdir()]
    pids = {int(pid) for pids in lists for pid in pids.split()}
    return sorted(
        pid for pid in pids if b"resource_tracker" not in _content(Path(f"/proc/{pid}/cmdline"))
    )


def _content(path: Path) -> bytes:
    """Nothing where the thread or process that the file is about has ended: since it was listed, or
    while the file is read."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _private_bytes(pid: int) -> int:
    lines = _content(Path(f"/proc/{pid}/smaps_rollup")).splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(b"Private_"))
