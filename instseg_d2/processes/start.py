"""Run a program in several processes, whoever starts them, so that they end together."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import dataclasses
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from multiprocessing import connection
from multiprocessing.process import BaseProcess

import torch
from detectron2.utils import comm
from torch import distributed
from torch import multiprocessing as torch_multiprocessing

from ..command_line import one_line_errors
from ..errors import DeviceError, UserError, user_message
from ..signals import forwarded_signals
from .layout import SLURM, Layout
from .meeting import meet
from .ports import free_port
from .watch import PATIENCE, Watch

#: The longest that processes wait for one another within a run, as for one that evaluates alone. A
#: process that has ended is noticed much sooner.
WAIT_TIMEOUT = timedelta(hours=3)

#: What each process runs.
Program = Callable[[argparse.Namespace], None]
#: Looks at what can be looked at before any work; returns ``MODEL.DEVICE``.
Check = Callable[[argparse.Namespace, Layout], str]

_layout: Layout | None = None  # of the process group


def launch(program: Program, args: argparse.Namespace, layout: Layout, check: Check) -> None:
    """Run a program in the processes of a layout; returns, or exits, when all have ended.

    When one fails its error is shown, once, and the others end within seconds. The exit status is
    then not 0. A process that others have started always ends here, with its functions of
    :mod:`atexit` done, but without waiting for threads that the program left.

    Args:
        program: at the top level of a module.
        args: what it is called with; of a parser with ``--debug``.
        layout: see :func:`.layout.find_layout`.
        check: called before the processes start, or in each of them if others have started them.
            It raises ``UserError``.
    """
    if layout.world_size > 1 and layout.local_rank is not None:
        _take_part(program, args, layout, check)
        return
    with one_line_errors(args):
        device = check(args, layout)
    if layout.world_size == 1:
        program(args)
    else:
        _start(program, args, layout, device)


def in_words() -> str:
    """How many processes there are and how they came about, for the log."""
    started = str(_layout) if _layout else f"{comm.get_world_size()} process(es)"
    return f"{started}, {distributed.get_backend()}" if distributed.is_initialized() else started


def gpus_needed(layout: Layout) -> int:
    """How many GPUs a process must see so that each on its machine has its own: SLURM may show each
    task no more than that one."""
    shows_one = layout.started_by == SLURM and torch.cuda.device_count() == 1
    return 1 if shows_one else layout.per_machine


# -------------------------------------------------------------------------- in one of the processes


def _take_part(program: Program, args: argparse.Namespace, layout: Layout, check: Check) -> None:
    with one_line_errors(args):
        store, watch = meet(layout)
    with _ending_together(watch):
        with one_line_errors(args):
            connect(layout, store, check(args, layout))
        program(args)
    watch.finish()
    _leave()


def connect(layout: Layout, store: distributed.Store, device: str) -> None:
    """Make the process groups of PyTorch and Detectron2, and give each process its GPU or cores.

    Raises:
        DeviceError: two processes have the same GPU.
    """
    global _layout
    is_cuda = device.startswith("cuda")
    distributed.init_process_group(
        "nccl" if is_cuda else "gloo",
        store=store,
        rank=layout.rank,
        world_size=layout.world_size,
        timeout=WAIT_TIMEOUT,
    )
    _layout = layout
    comm.create_local_process_group(layout.per_machine)
    if is_cuda:
        is_own = gpus_needed(layout) < layout.per_machine  # the only one that this process sees
        torch.cuda.set_device(0 if is_own else layout.local_rank)
        _check_own_gpu(layout)
    elif "OMP_NUM_THREADS" not in os.environ:  # else each process takes all cores
        cores = len(os.sched_getaffinity(0))
        torch.set_num_threads(max(cores // layout.per_machine, 1))
    comm.synchronize()


def _check_own_gpu(layout: Layout) -> None:
    """NCCL's own message for two processes on one GPU names neither."""
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    gpus = comm.all_gather((layout.machine, str(properties.uuid)))
    same = [rank for rank, gpu in enumerate(gpus) if gpu == gpus[layout.rank]]
    if len(same) > 1:
        raise DeviceError(
            f"ranks {same} all have the same GPU, {properties.name}; each needs its own: give srun "
            "--gpus-per-task 1, or as many processes as there are GPUs"
        )


@contextlib.contextmanager
def _ending_together(watch: Watch) -> Iterator[None]:
    """If this process fails, the others end, too; if another one has failed before, this one ends
    without a word."""
    filter_ = _FirstErrorOnly(watch)
    # Detectron2's loop logs whatever comes out of it before we see it.
    train_loop = logging.getLogger("detectron2.engine.train_loop")
    train_loop.addFilter(filter_)
    try:
        yield
    except BaseException as error:
        if isinstance(error, SystemExit) and not error.code:
            return
        status = _fail(watch, error)
        if not isinstance(error, SystemExit):
            traceback.print_exc()
        elif isinstance(error.code, str):
            print(error.code, file=sys.stderr)
        # Not by returning: what is left of an exchange with other processes could wait for them.
        _exit_now(status)
    finally:
        train_loop.removeFilter(filter_)


class _FirstErrorOnly(logging.Filter):
    """An error is logged unless another process has failed before."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._watch = watch

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and record.exc_info[1] is not None:
            _fail(self._watch, record.exc_info[1])
        return True


def _fail(watch: Watch, error: BaseException) -> int:
    """Tell the other processes. If one of them has failed before, this one ends here.

    Returns:
        the exit status.
    """
    status, patience = 1, 0.0
    if isinstance(error, SystemExit):
        text = str(error.code)
        if isinstance(error.code, int):  # it has said why, and others may end likewise
            text, status, patience = f"exit status {error.code}", error.code, PATIENCE
    elif isinstance(error, UserError):
        text = f"error: {user_message(error)}"
    else:
        watch.wait_for_news()  # a connection may be lost only because the other end has died
        text = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
    if not watch.is_first(f"failed: {text}", status, patience):
        _exit_now(status)
    return status


def _leave() -> None:
    """End this process, the program being done, but not as Python does.

    A thread of gloo may still hold the tensors of the last exchange and wait for Python, to let
    them go. While Python takes itself down it ends threads that ask for it, and C++, that the whole
    process: "terminate called without an active exception", SIGABRT, now and then. Destroying the
    process groups would wait for these threads, but Detectron2 and ``DistributedDataParallel`` keep
    the groups alive.
    """
    distributed.destroy_process_group()
    atexit._run_exitfuncs()
    _exit_now(0)


def _exit_now(status: int) -> None:
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # of one that takes nothing any more
            stream.flush()
    os._exit(status)


# ------------------------------------------------------------------ in the process that starts them


def _start(program: Program, args: argparse.Namespace, layout: Layout, device: str) -> None:
    if layout.url == "auto":
        layout = dataclasses.replace(layout, url=f"tcp://127.0.0.1:{free_port()}")
    context = torch_multiprocessing.start_processes(
        _started, (program, args, layout, device), nprocs=layout.per_machine, join=False
    )
    with forwarded_signals():
        status, killed = _wait_for(context.processes)
    for local_rank, number in killed.items():
        rank = layout.of_process(local_rank).rank
        print(f"error: rank {rank} was ended by {signal.Signals(number).name}", file=sys.stderr)
    if status:
        sys.exit(status)


def _started(
    local_rank: int, program: Program, args: argparse.Namespace, layout: Layout, device: str
) -> None:
    _take_part(program, args, layout.of_process(local_rank), lambda *_: device)


def _wait_for(processes: list[BaseProcess]) -> tuple[int, dict[int, int]]:
    """Wait until all have ended; those that do not end after another one failed are ended.

    Returns:
        the exit status, that of the first that failed; and the signals that ended processes, but
        those that were sent here.
    """
    status, killed = 0, {}
    running = dict(enumerate(processes))
    end = float("inf")
    while running and time.monotonic() < end:
        timeout = None if status == 0 else max(end - time.monotonic(), 0)
        connection.wait([process.sentinel for process in running.values()], timeout)
        for index, process in list(running.items()):
            if process.exitcode is None:
                continue
            del running[index]
            if process.exitcode < 0:
                killed[index] = -process.exitcode
            if process.exitcode and not status:
                # As a shell has it: 128 + the number of the signal.
                status = process.exitcode if process.exitcode > 0 else 128 - process.exitcode
                end = time.monotonic() + PATIENCE
    for process in running.values():
        process.kill()
        process.join()
    return status, killed
