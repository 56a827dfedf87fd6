"""Real processes for tests, without the seconds that importing PyTorch anew takes."""

import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

#: Far more than any of these tests needs: the machine may be busy.
DEADLINE = 120.0


def run_forked(
    size: int, body: Callable[[int], None], folder: Path, sockets: Sequence[socket.socket] = ()
) -> tuple[list[int], str]:
    """Run ``body(rank)`` in so many processes.

    Args:
        sockets: of theirs, which are closed here.

    Returns:
        their exit statuses, negative for the number of a signal; and what they wrote to stderr.
    """
    output = folder / "stderr"
    children = []
    for rank in range(size):
        child = os.fork()
        if child == 0:
            _run(rank, body, output)
        children.append(child)
    for one in sockets:
        one.close()
    return [_wait(child) for child in children], output.read_text()


def _run(rank: int, body: Callable[[int], None], output: Path) -> None:
    status = 70
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 2)
        os.dup2(descriptor, 1)
        sys.stdout = sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
        body(rank)
        status = 0
    finally:
        os._exit(status)


def _wait(child: int) -> int:
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(child, 9)
    os.waitpid(child, 0)
    raise AssertionError("a process did not end")
