"""Processes that end together: when one fails or is killed, the others learn of it and end, too.

Without that they would wait in an exchange of gradients until its time is over, for hours.

Every process has a connection to the first one. As long as all is well nothing is sent: when a
process ends, for whatever reason, the system closes its connection, and when a machine is gone the
system notices that probes remain unanswered. So a process is never taken for dead because it is
busy, however long. Messages are lines of JSON.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .layout import OPTIONS, Layout

#: Seconds that a process has to end by itself after another one has ended in good order.
PATIENCE = 30.0
#: Seconds in which news of a killed process arrive, after its connections are closed.
NEWS_DELAY = 3.0
#: Seconds in which an answer arrives.
ANSWER_DELAY = 10.0
#: Of a silent connection: seconds before the first probe, between probes, and their number.
PROBES = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}


@dataclass(frozen=True)
class Failure:
    """Why the processes end.

    Attributes:
        rank: of the process that ended first.
        text: what became of it, for people, in one line: "failed: ...".
        status: exit status of the others.
        patience: seconds until the others end, which may do so by themselves before.
        shown_by: rank of the process that shows it; -1: whoever started the processes.
        shown_on: the console where it is shown so, see :meth:`Layout.console`.
    """

    rank: int
    text: str
    status: int = 1
    patience: float = 0.0
    shown_by: int = -1
    shown_on: int = 0


class Link:
    """A connection to another process."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(None)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in PROBES.items():
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self._socket = connection
        self.lines = connection.makefile("r", encoding="utf-8")

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message; to a process that is gone, nothing."""
        with contextlib.suppress(OSError):
            self._socket.sendall(json.dumps(message).encode() + b"\n")

    def replace(self, descriptor: int) -> None:
        """Let go of the connection without closing it for the process that shares it."""
        os.dup2(descriptor, self._socket.fileno())


class Watch:
    """What one process knows of the others. A thread for each link listens; when another process
    fails, it ends this one, whatever the main thread is waiting for."""

    def __init__(self, layout: Layout, links: Mapping[int, Link]) -> None:
        """
        Args:
            layout: of this process.
            links: rank -> connection; the first process has one to each of the others, these have
                one to the first.
        """
        self._layout = layout
        self._links = dict(links)
        self._lock = threading.Lock()
        self._failure: Failure | None = None
        self._news = threading.Event()  # the failure is known
        self._running = set(range(layout.world_size))
        self._all_done = threading.Event()
        # A data loader's workers outlive a process that is killed, for seconds.
        os.register_at_fork(after_in_child=self._forget)
        for rank, link in self._links.items():
            threading.Thread(target=self._listen, args=(rank, link), daemon=True).start()

    def is_first(self, text: str, status: int = 1, patience: float = 0.0) -> bool:
        """Tell the others that this process fails.

        Args:
            text: why, in one line.
            status, patience: see :class:`Failure`.

        Returns:
            whether none has failed before, so that this process is to show its error.
        """
        rank = self._layout.rank
        failure = Failure(rank, text, status, patience, rank, self._layout.console(rank))
        if rank == 0:
            self._decide(failure)
        elif self._failure is None:
            self._links[0].send({"failed": dataclasses.asdict(failure)})
            self._news.wait(ANSWER_DELAY)  # for which one was first
        first = self._failure
        if first is not None and first.rank != rank and not first.patience:
            time.sleep(ANSWER_DELAY)  # this process is being ended
        return first is None or first.rank == rank

    def wait_for_news(self) -> None:
        """Before an error is shown that another process's end may have caused."""
        self._news.wait(NEWS_DELAY)

    def finish(self) -> None:
        """Come to an end in good order: return when all processes have come here."""
        if self._layout.rank == 0:
            self._note_done(0)
        else:
            self._links[0].send({"done": True})
        self._all_done.wait()

    def _listen(self, rank: int, link: Link) -> None:
        with contextlib.suppress(OSError, ValueError):
            for line in link.lines:
                self._hear(rank, json.loads(line))
        self._note_end(rank)

    def _hear(self, rank: int, message: Mapping[str, Any]) -> None:
        if "done" in message:
            self._note_done(rank)
        elif "failed" in message:
            failure = Failure(**message["failed"])
            if self._layout.rank == 0:
                self._decide(failure)
            else:
                self._know(failure)

    def _note_done(self, rank: int) -> None:
        """A process has come to its end; the first one is told by each, and tells all."""
        with self._lock:
            self._running.discard(rank)
            if self._layout.rank == 0 and self._running:
                return
            if self._layout.rank == 0:
                for link in self._links.values():
                    link.send({"done": True})
            self._all_done.set()

    def _note_end(self, rank: int) -> None:
        """A connection is closed."""
        if self._failure is not None or self._all_done.is_set():
            return
        text = "was ended without a word: killed, for want of memory for example"
        if self._layout.started_by == OPTIONS:  # the process that started it says by which signal
            shown_by, shown_on = -1, self._layout.console(rank)
        else:
            shown_by = 0 if rank else 1
            shown_on = self._layout.console(shown_by)
        failure = Failure(rank, text, shown_by=shown_by, shown_on=shown_on)
        if self._layout.rank == 0:
            self._decide(failure)
        else:
            self._know(failure)

    def _decide(self, failure: Failure) -> None:
        """In the first process: of several failures the first one counts."""
        with self._lock:
            if self._failure is not None:
                return
            self._failure = failure
        for link in self._links.values():
            link.send({"failed": dataclasses.asdict(failure)})
        self._know(failure)

    def _know(self, failure: Failure) -> None:
        self._failure = failure
        self._news.set()
        if failure.rank != self._layout.rank:
            time.sleep(failure.patience)
            self._end(failure)

    def _end(self, failure: Failure) -> None:
        """End this process, also while it waits in code that is not Python's."""
        console, rank = self._layout.console(self._layout.rank), self._layout.rank
        is_other = console != failure.shown_on and self._layout.local_rank == 0
        if rank == failure.shown_by or is_other:
            with contextlib.suppress(OSError):  # not print, which the main thread may hold
                os.write(2, f"error: rank {failure.rank} {failure.text}\n".encode())
        os._exit(failure.status)

    def _forget(self) -> None:
        descriptor = os.open(os.devnull, os.O_RDWR)
        for link in self._links.values():
            link.replace(descriptor)
        os.close(descriptor)
