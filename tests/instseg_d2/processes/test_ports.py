"""Ports at which processes may meet."""

import socket

import pytest

from instseg_d2.processes import ports
from instseg_d2.processes.ports import free_port, port_of_job


def test_steps_meet_at_different_ports() -> None:
    found = [port_of_job(job, step) for job in (1, 2, 10**9) for step in (0, 1)]
    assert len(set(found)) == len(found)
    assert all(1024 < port < 32768 for port in found)


def test_linux_as_it_comes_gives_a_free_port_to_nobody_else() -> None:
    found = {free_port() for _ in range(50)}
    assert len(found) > 40
    assert all(1024 < port < 32768 for port in found)


def test_a_port_in_use_is_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(ports, "FIRST_PORT", server.getsockname()[1])
        monkeypatch.setattr(ports, "NUM_PORTS", 1)
        port = free_port()
        assert port != server.getsockname()[1]
    with socket.create_server(("127.0.0.1", port)):
        pass
