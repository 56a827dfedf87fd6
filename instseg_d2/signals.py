"""The signals that ask a program to end, for the processes around the one that ends by them."""

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""SIGUSR1 is what SLURM is mostly told to send (``--signal``) before the time limit."""


@contextlib.contextmanager
def forwarded_signals() -> Iterator[None]:
    """What this process is sent goes to its children, for which it waits within."""

    def forward(number: int, frame: FrameType | None) -> None:
        for child in multiprocessing.active_children():
            if child.pid is not None:
                os.kill(child.pid, number)

    before = {number: signal.signal(number, forward) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def held_back_signals() -> Iterator[None]:
    """Signals wait; in processes that are started within, until :func:`outlive_one_signal`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def outlive_one_signal(worker: int) -> None:
    """For a data loader's worker: what is sent to all processes of a job does not end it before the
    step that waits for its images; the next signal does.

    Args:
        worker: its number, as PyTorch calls a ``worker_init_fn``.
    """

    def end_by_the_next(number: int, frame: FrameType | None) -> None:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)

    for number in SIGNALS:
        signal.signal(number, end_by_the_next)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
