"""Processes that end together; in real processes."""

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from instseg_d2.processes import Layout
from instseg_d2.processes.layout import OPTIONS, SLURM, TORCHRUN
from instseg_d2.processes.watch import Link, Watch
from tests.instseg_d2.processes.forked import run_forked

Body = Callable[[int, Watch], None]
THREE = Layout(TORCHRUN, per_machine=3)
THREE_MACHINES = Layout(TORCHRUN, num_machines=3)


def wait_for_ever(rank: int, watch: Watch) -> None:
    """As in an exchange with a process that is no more."""
    while True:
        time.sleep(60)


def die(rank: int, watch: Watch) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail(rank: int, watch: Watch) -> None:
    if watch.is_first("failed: error: the disk is full"):
        os.write(2, b"error: the disk is full\n")
    os._exit(1)


def run(layout: Layout, bodies: dict[int, Body], folder: Path) -> tuple[list[int], list[str]]:
    """The exit statuses of all ranks, and the lines on their common stderr; those without a body
    wait for ever."""
    pairs = {rank: socket.socketpair() for rank in range(1, layout.world_size)}

    def body(rank: int) -> None:
        links = {}
        for other, (first, end) in pairs.items():
            if rank == 0:
                links[other] = Link(first)
            elif rank == other:
                links[0] = Link(end)
            for one in (first, end):  # an end that somebody else holds is not closed
                if one is not (first if rank == 0 else end if rank == other else None):
                    one.close()
        local_rank = rank % layout.per_machine
        mine = Layout(
            layout.started_by, layout.per_machine, layout.num_machines,
            rank // layout.per_machine, local_rank,
        )  # fmt: skip
        watch = Watch(mine, links)
        bodies.get(rank, wait_for_ever)(rank, watch)

    sockets = [one for pair in pairs.values() for one in pair]
    statuses, errors = run_forked(layout.world_size, body, folder, sockets)
    return statuses, errors.splitlines()


@pytest.fixture(autouse=True)
def _unix_sockets_have_no_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("instseg_d2.processes.watch.PROBES", {})


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_a_killed_process_ends_the_others_with_one_message(victim: int, tmp_path: Path) -> None:
    statuses, lines = run(THREE, {victim: die}, tmp_path)
    assert statuses == [-signal.SIGKILL if rank == victim else 1 for rank in range(3)]
    assert len(lines) == 1
    assert lines[0].startswith(f"error: rank {victim} was ended without a word")


@pytest.mark.parametrize("victim", [0, 2])
def test_a_failing_process_ends_the_others_and_shows_its_error(victim: int, tmp_path: Path) -> None:
    statuses, lines = run(THREE, {victim: fail}, tmp_path)
    assert statuses == [1, 1, 1]
    assert lines == ["error: the disk is full"]


def test_of_processes_that_fail_at_once_one_shows_its_error(tmp_path: Path) -> None:
    statuses, lines = run(THREE, dict.fromkeys(range(3), fail), tmp_path)
    assert statuses == [1, 1, 1]
    assert lines == ["error: the disk is full"]


def test_other_machines_have_consoles_of_their_own(tmp_path: Path) -> None:
    _, lines = run(THREE_MACHINES, {1: fail}, tmp_path)
    told = "error: rank 1 failed: error: the disk is full"
    assert sorted(lines) == sorted(["error: the disk is full", told, told])


def test_under_slurm_all_write_to_one_console(tmp_path: Path) -> None:
    _, lines = run(Layout(SLURM, num_machines=3), {1: fail}, tmp_path)
    assert lines == ["error: the disk is full"]
    _, lines = run(Layout(SLURM, num_machines=3), {0: die}, tmp_path)
    assert len(lines) == 2  # and the one above


def test_what_the_options_have_started_is_reported_by_its_parent(tmp_path: Path) -> None:
    statuses, lines = run(Layout(OPTIONS, per_machine=3), {1: die}, tmp_path)
    assert (statuses, lines) == ([1, -signal.SIGKILL, 1], [])


def test_the_workers_of_a_killed_process_do_not_hide_its_end(tmp_path: Path) -> None:
    def die_with_a_worker(rank: int, watch: Watch) -> None:
        if os.fork() == 0:
            time.sleep(100)
            os._exit(0)
        die(rank, watch)

    start = time.monotonic()
    statuses, _ = run(THREE, {1: die_with_a_worker}, tmp_path)
    assert statuses == [1, -signal.SIGKILL, 1]
    assert time.monotonic() - start < 60


def test_processes_that_have_come_to_their_end_wait_for_the_others(tmp_path: Path) -> None:
    def finish(rank: int, watch: Watch) -> None:
        if rank == 1:
            time.sleep(0.5)
            (tmp_path / "late").touch()
        watch.finish()
        assert (tmp_path / "late").exists()

    statuses, lines = run(THREE, dict.fromkeys(range(3), finish), tmp_path)
    assert (statuses, lines) == ([0, 0, 0], [])


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_waits_at_its_end_learns_of_another_one(victim: int, tmp_path: Path) -> None:
    bodies: dict[int, Body] = {rank: lambda _, watch: watch.finish() for rank in range(3)}
    statuses, lines = run(THREE, {**bodies, victim: die}, tmp_path)
    assert statuses == [-signal.SIGKILL if rank == victim else 1 for rank in range(3)]
    assert len(lines) == 1


def test_after_an_end_in_good_order_the_others_have_time(tmp_path: Path) -> None:
    def stop(rank: int, watch: Watch) -> None:
        watch.is_first("failed: exit status 143", 143, 1.0)
        os._exit(143)

    def save(rank: int, watch: Watch) -> None:
        watch.wait_for_news()
        (tmp_path / "saved").touch()
        os._exit(143)

    statuses, lines = run(THREE, {1: stop, 2: save}, tmp_path)
    assert statuses == [143, 143, 143]
    assert (tmp_path / "saved").exists()
    assert lines == []


def test_an_error_that_follows_from_anothers_end_is_not_shown(tmp_path: Path) -> None:
    def lose_the_connection(rank: int, watch: Watch) -> None:
        watch.wait_for_news()
        fail(rank, watch)

    _, lines = run(THREE, {0: lose_the_connection, 1: die, 2: lose_the_connection}, tmp_path)
    assert [line.split(":")[1] for line in lines] == [" rank 1 was ended without a word"]
