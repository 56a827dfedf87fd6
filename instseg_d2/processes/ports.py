"""Ports of this machine at which processes may meet."""

from __future__ import annotations

import contextlib
import secrets
import socket

#: Below those that Linux, as it comes, gives to whoever asks for any port or calls another one.
FIRST_PORT, NUM_PORTS = 12_000, 18_000
#: Of :func:`free_port`, before it asks the system.
ATTEMPTS = 100


def port_of_job(job: int, step: int) -> int:
    """A port (12,000 to 29,999) that the tasks of a step of SLURM agree on without asking, mostly
    another one for each step."""
    return FIRST_PORT + (job * 31 + step) % NUM_PORTS


def free_port() -> int:
    """A port that nobody listens at, as a rule (12,000 to 29,999) one that the system gives to
    nobody: it must stay free while the processes that are to meet there start, for seconds.

    Raises:
        OSError: there is none.
    """
    for _ in range(ATTEMPTS):
        with contextlib.suppress(OSError):
            return _bound(FIRST_PORT + secrets.randbelow(NUM_PORTS))
    return _bound(0)


def _bound(port: int) -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", port))
        found: int = probe.getsockname()[1]
        return found
