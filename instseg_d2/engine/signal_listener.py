"""Noting a signal in place of ending by it."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType
from typing import Any

from detectron2.utils import comm

from ..signals import SIGNALS

#: Seconds in which signals are one: a process may get it from its parent and from the system.
SAME_SIGNAL = 1.0


class SignalListener:
    """Notes the first signal; a second one ends the process.

    Processes that are forked meanwhile do not listen: a pool of processes, as Detectron2's that
    reads Cityscapes' files, would wait for ever for those that its SIGTERM did not end.

    Attributes:
        received: the number of the signal; 0: none has come.
    """

    def __init__(self) -> None:
        self.received = 0
        self._time = 0.0
        self._before: dict[int, Any] = {}

    def start(self) -> None:
        """Only the main thread of a process can listen; in others nothing happens."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
            _listening.add(self)

    def stop(self) -> None:
        """Treat signals as before :meth:`start`."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
        _listening.discard(self)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            if time.monotonic() - self._time > SAME_SIGNAL:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        self.received, self._time = number, time.monotonic()
        if comm.is_main_process():
            name = signal.Signals(number).name
            # Not print, which may be what was interrupted.
            os.write(2, f"\n{name}: ending after this step; a second one ends at once\n".encode())


_listening: set[SignalListener] = set()


class _Fork(threading.local):
    """What a thread does around each fork while somebody listens: a signal waits until the new
    process no longer does."""

    def __init__(self) -> None:
        self._mask: set[Any] | None = None

    def begin(self) -> None:
        if _listening:
            self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

    def end(self) -> None:
        if self._mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
            self._mask = None

    def end_in_child(self) -> None:
        for listener in tuple(_listening):
            listener.stop()
        self.end()


_fork = _Fork()
os.register_at_fork(
    before=_fork.begin, after_in_parent=_fork.end, after_in_child=_fork.end_in_child
)
