"""Two real processes that exchange tensors (gloo): how they end, and what is shown of it."""

import atexit
import os
import re
import signal
import time
from argparse import Namespace
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from detectron2.utils import comm
from torch import distributed

from instseg_d2.command_line import one_line_errors
from instseg_d2.errors import ConfigError, LaunchError
from instseg_d2.processes import Layout, in_words, launch
from instseg_d2.processes.layout import TORCHRUN
from instseg_d2.processes.meeting import meet
from instseg_d2.processes.ports import free_port
from instseg_d2.processes.start import _wait_for
from tests.instseg_d2.processes.forked import run_forked

ARGS = Namespace(debug=False)


def on_cpu(args: Namespace, layout: Layout) -> str:
    return "cpu"


def run(
    program: Callable[[Namespace], None], folder: Path, check: Callable = on_cpu
) -> tuple[list[int], str]:
    """The exit statuses of two processes, and what they wrote."""
    url = f"tcp://127.0.0.1:{free_port()}"

    def body(rank: int) -> None:
        atexit._clear()  # what is to be done at the end of the tests
        try:
            launch(program, ARGS, Layout(TORCHRUN, 2, local_rank=rank, url=url), check)
            os._exit(71)  # it ends the process itself
        except SystemExit as error:  # as Python does at its end
            if isinstance(error.code, str):
                os.write(2, f"{error.code}\n".encode())
            os._exit(1)

    return run_forked(2, body, folder)


def exchange_for_ever() -> None:
    while True:
        distributed.all_reduce(torch.ones(1))


def test_processes_know_each_other_and_end_together(tmp_path: Path) -> None:
    def program(args: Namespace) -> None:
        total = torch.tensor(float(comm.get_rank() + 1))
        distributed.all_reduce(total)
        assert total == 3
        assert comm.all_gather(comm.get_local_rank()) == [0, 1]
        (tmp_path / f"{comm.get_rank()}").write_text(in_words())

    assert run(program, tmp_path)[0] == [0, 0]
    for rank in "01":
        assert (tmp_path / rank).read_text() == "2 processes on 1 machine (torchrun), gloo"


def test_a_process_ends_in_order_but_without_taking_python_down(tmp_path: Path) -> None:
    """Else gloo's threads may ask for Python while it goes, which ends the process by SIGABRT."""

    def program(args: Namespace) -> None:
        atexit.register(os.write, 2, b"at exit\n")
        comm.synchronize()

    assert run(program, tmp_path) == ([0, 0], "at exit\n" * 2)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_is_the_only_thing_that_is_reported(victim: int, tmp_path: Path) -> None:
    """The other one's exchange fails, too, which explains nothing."""

    def program(args: Namespace) -> None:
        distributed.all_reduce(torch.ones(1))
        if comm.get_rank() == victim:
            os.kill(os.getpid(), signal.SIGKILL)
        exchange_for_ever()

    start = time.monotonic()
    statuses, output = run(program, tmp_path)
    assert time.monotonic() - start < 60
    assert sorted(statuses) == [-signal.SIGKILL, 1]
    assert "Traceback" not in output
    assert re.findall("^error:.*", output, re.M) == [
        f"error: rank {victim} was ended without a word: killed, for want of memory for example"
    ]


def test_the_traceback_of_a_fault_is_shown_once(tmp_path: Path) -> None:
    def program(args: Namespace) -> None:
        if comm.get_rank() == 1:
            raise ZeroDivisionError("of rank 1")
        exchange_for_ever()

    statuses, output = run(program, tmp_path)
    assert statuses == [1, 1]
    assert output.count("Traceback") == 1
    assert output.count("ZeroDivisionError: of rank 1") == 1


def test_an_error_of_every_process_is_shown_once(tmp_path: Path) -> None:
    def program(args: Namespace) -> None:
        comm.synchronize()
        with one_line_errors(args):
            raise ConfigError("SOLVER.BASE_LR is wrong")

    statuses, output = run(program, tmp_path)
    assert statuses == [1, 1]
    assert re.findall("^error:.*", output, re.M) == ["error: SOLVER.BASE_LR is wrong"]


def test_what_is_checked_before_the_start_is_reported_once(tmp_path: Path) -> None:
    def check(args: Namespace, layout: Layout) -> str:
        raise ConfigError(f"no batch for {layout.world_size}")

    statuses, output = run(lambda args: None, tmp_path, check)
    assert statuses == [1, 1]
    assert re.findall("^error:.*", output, re.M) == ["error: no batch for 2"]


def test_who_waits_in_vain_learns_where() -> None:
    layout = Layout(TORCHRUN, 2, local_rank=0, url=f"tcp://127.0.0.1:{free_port()}")
    with pytest.raises(LaunchError, match=r"rank 0 .* could not meet the others at tcp://127"):
        meet(layout, timedelta(seconds=1))


class Ended:
    """A process as :mod:`multiprocessing` shows it."""

    def __init__(self, exitcode: int | None) -> None:
        self.exitcode = exitcode
        self.sentinel, other = os.pipe()
        if exitcode is not None:
            os.close(other)

    def kill(self) -> None:
        self.exitcode = -signal.SIGKILL

    def join(self) -> None:
        pass


@pytest.mark.parametrize(
    ("exitcodes", "status", "killed"),
    [
        ([0, 0], 0, {}),
        ([0, 143], 143, {}),
        ([1, -signal.SIGKILL], 1, {1: signal.SIGKILL}),
        ([-signal.SIGSEGV, None], 128 + signal.SIGSEGV, {0: signal.SIGSEGV}),
    ],
)
def test_the_exit_status_is_that_of_the_first_that_failed(
    exitcodes: list[int | None],
    status: int,
    killed: dict[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that hangs after another one has failed is ended."""
    monkeypatch.setattr("instseg_d2.processes.start.PATIENCE", 0.1)
    processes = [Ended(code) for code in exitcodes]
    assert _wait_for(processes) == (status, killed)
    assert None not in [process.exitcode for process in processes]
