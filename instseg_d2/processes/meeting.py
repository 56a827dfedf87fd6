"""Where processes of one program find each other, on one machine or several."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import time
from collections.abc import Iterator
from datetime import timedelta
from urllib.parse import urlparse

from torch import distributed

from ..errors import LaunchError
from .layout import Layout
from .watch import Link, Watch

#: Processes wait so long for the others to come.
JOIN_TIMEOUT = timedelta(minutes=10)
#: Seconds to wait for an address that may be wrong.
CONNECT_TIMEOUT = 5.0
#: Characters of a first line.
MAX_LINE = 4096


def meet(layout: Layout, timeout: timedelta = JOIN_TIMEOUT) -> tuple[distributed.Store, Watch]:
    """Wait for the other processes; from then on all end together.

    Args:
        layout: of this process; its URL is not ``auto``.

    Raises:
        LaunchError: not all came, or the first one cannot be reached.
    """
    store = _open_store(layout, timeout)
    if layout.rank == 0:
        return store, Watch(layout, _accept_all(layout, store, timeout))
    return store, Watch(layout, {0: _connect_to_first(layout, store)})


def _open_store(layout: Layout, timeout: timedelta) -> distributed.Store:
    try:
        meeting = distributed.rendezvous(
            layout.url, rank=layout.rank, world_size=layout.world_size, timeout=timeout
        )
        store, _, _ = next(meeting)
    except (RuntimeError, ValueError, OSError) as error:  # torch has no narrower one for all
        where = layout.url
        if where == "env://":
            where = f"MASTER_ADDR {os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise LaunchError(
            f"{layout}: rank {layout.rank} on {socket.gethostname()} could not meet the others at "
            f"{where} within {timeout.total_seconds():.0f} seconds: {_first_line(error)}. Were all "
            "of them started, and is the port free there and open to the others?"
        ) from error
    return store


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".") if str(error) else type(error).__name__


def _accept_all(layout: Layout, store: distributed.Store, timeout: timedelta) -> dict[int, Link]:
    """In the first process: the links to all others.

    Who does not know the token is nobody we wait for.
    """
    token = secrets.token_hex(16)
    links: dict[int, Link] = {}
    end = time.monotonic() + timeout.total_seconds()
    with _listener(layout) as listener:
        port = listener.getsockname()[1]
        address = {"hosts": _own_names(layout), "port": port, "token": token}
        store.set("watch", json.dumps(address))
        while len(links) < layout.world_size - 1:
            listener.settimeout(max(end - time.monotonic(), 0.01))
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                absent = sorted(set(range(1, layout.world_size)) - set(links))
                raise LaunchError(f"{layout}: ranks {absent} did not come") from None
            caller = _greet(connection, token, layout.world_size)
            if caller is None or caller in links:
                connection.close()
            else:
                links[caller] = Link(connection)
    return links


def _listener(layout: Layout) -> socket.socket:
    if layout.num_machines == 1:
        return socket.create_server(("127.0.0.1", 0))
    if socket.has_dualstack_ipv6():
        return socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", 0))


def _own_names(layout: Layout) -> list[str]:
    """By which other processes may reach the first one, the likeliest first."""
    if layout.num_machines == 1:
        return ["127.0.0.1"]
    url_host = urlparse(layout.url).hostname or os.environ.get("MASTER_ADDR", "")
    return list(dict.fromkeys(filter(None, [*_addresses_to(url_host), socket.gethostname()])))


def _addresses_to(host: str) -> Iterator[str]:
    """The host itself, and the address of this machine that messages to it would come from."""
    yield host
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 9))  # sends nothing
        yield probe.getsockname()[0]


def _greet(connection: socket.socket, token: str, world_size: int) -> int | None:
    """The rank of who has called; None if it is a stranger."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        connection.settimeout(CONNECT_TIMEOUT)
        hello = json.loads(_read_line(connection))
        if secrets.compare_digest(str(hello["token"]), token) and 0 < hello["rank"] < world_size:
            connection.sendall(b"welcome\n")
            return int(hello["rank"])
    return None


def _connect_to_first(layout: Layout, store: distributed.Store) -> Link:
    address = json.loads(store.get("watch"))
    hello = json.dumps({"token": address["token"], "rank": layout.rank}).encode() + b"\n"
    problems = []
    for host in address["hosts"]:
        try:
            connection = socket.create_connection((host, address["port"]), CONNECT_TIMEOUT)
            connection.sendall(hello)
            if _read_line(connection) == b"welcome":
                return Link(connection)
            problems.append(f"{host}: somebody else")
        except OSError as error:
            problems.append(f"{host}: {error}")
    raise LaunchError(
        f"{layout}: rank {layout.rank} on {socket.gethostname()} cannot reach rank 0 at port "
        f"{address['port']} ({'; '.join(problems)}); the machines must be open to each other"
    )


def _read_line(connection: socket.socket) -> bytes:
    """Without what comes after it."""
    line = b""
    while not line.endswith(b"\n") and len(line) < MAX_LINE:
        sign = connection.recv(1)
        if not sign:
            break
        line += sign
    return line.rstrip(b"\n")
