"""How many processes a program has, and which of them this one is.

There are three ways to start several:

* ``torchrun`` starts them and sets ``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK`` and others;
* ``srun`` starts them on SLURM's machines and sets ``SLURM_PROCID`` and others;
* the program starts them itself, as its options ``--num-gpus``, ``--num-machines``,
  ``--machine-rank`` and ``--dist-url`` say, once on each machine.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import LaunchError
from . import slurm
from .ports import port_of_job

TORCHRUN_VARIABLES = ("WORLD_SIZE", "RANK", "LOCAL_WORLD_SIZE", "LOCAL_RANK")
OPTIONS = "--num-gpus"
TORCHRUN = "torchrun"
SLURM = "SLURM"


@dataclass(frozen=True)
class Layout:
    """Processes, as many on each machine, numbered machine by machine.

    Attributes:
        started_by: :data:`OPTIONS`, :data:`TORCHRUN` or :data:`SLURM`.
        per_machine: how many processes each machine has, at least 1.
        num_machines: at least 1.
        machine: the number of this machine, from 0.
        local_rank: the number of this process on its machine, from 0; None in the one that is to
            start the others.
        url: where they meet: ``tcp://host:port``, ``file://path``, or ``env://`` for where
            ``torchrun`` says. ``auto``: on a free port of this machine.
    """

    started_by: str
    per_machine: int = 1
    num_machines: int = 1
    machine: int = 0
    local_rank: int | None = None
    url: str = "auto"

    @property
    def world_size(self) -> int:
        """Of all machines together."""
        return self.per_machine * self.num_machines

    @property
    def rank(self) -> int:
        """The number of this process among all."""
        assert self.local_rank is not None, "it is not one of the processes"
        return self.machine * self.per_machine + self.local_rank

    def of_process(self, local_rank: int) -> Layout:
        """The same, seen from one of the processes of this machine."""
        return dataclasses.replace(self, local_rank=local_rank)

    def console(self, rank: int) -> int:
        """Processes of the same number here write to the same console: that of their machine, or of
        ``srun``."""
        return 0 if self.started_by == SLURM else rank // self.per_machine

    def __str__(self) -> str:
        processes, machines = (
            f"{count} {what if count == 1 else plural}"
            for count, what, plural in (
                (self.world_size, "process", "processes"),
                (self.num_machines, "machine", "machines"),
            )
        )
        return f"{processes} on {machines} ({self.started_by})"


def find_layout(options: Layout, environ: Mapping[str, str], default_url: str = "auto") -> Layout:
    """Who starts the processes: ``torchrun``, ``srun``, or else the options.

    Args:
        options: what the options say.
        environ: the environment variables.
        default_url: what ``--dist-url`` is if it is not given, which only one machine can use.

    Raises:
        LaunchError: options and variables contradict each other or themselves.
    """
    if any(name in environ for name in TORCHRUN_VARIABLES):
        started = _of_torchrun(environ)
    elif slurm.in_step(environ):
        started = _of_slurm(environ)
        # One task is told by the options what to start, and so is one on each of several machines.
        if started.world_size in (1, options.num_machines):
            return _of_options(options, default_url)
    else:
        return _of_options(options, default_url)
    if options.world_size > 1 or options.machine > 0:
        raise LaunchError(
            f"{started} have been started already, but --num-gpus {options.per_machine} "
            f"--num-machines {options.num_machines} asks for others; leave these options out, or "
            f"start the program without {started.started_by}"
        )
    return started


def _of_options(options: Layout, default_url: str) -> Layout:
    if options.per_machine < 1 or options.num_machines < 1:
        raise LaunchError("--num-gpus must be at least 0 and --num-machines at least 1")
    if not 0 <= options.machine < options.num_machines:
        raise LaunchError(
            f"--machine-rank is {options.machine}; with --num-machines {options.num_machines} "
            "machines are numbered from 0"
        )
    is_default = options.url in ("auto", default_url)
    if is_default and options.num_machines > 1:
        raise LaunchError(
            f"--num-machines {options.num_machines} needs --dist-url tcp://HOST:PORT, the same on "
            "each machine: HOST is the name of the one with --machine-rank 0, PORT is free there"
        )
    # Two programs of one user on a machine must not meet at the same port.
    return dataclasses.replace(options, url="auto") if is_default else options


def _of_torchrun(environ: Mapping[str, str]) -> Layout:
    present = next(name for name in TORCHRUN_VARIABLES if name in environ)
    if present == "WORLD_SIZE" and _whole(environ, "WORLD_SIZE", 1) == 1:
        return Layout(TORCHRUN, local_rank=0)
    for name in (*TORCHRUN_VARIABLES, "MASTER_ADDR", "MASTER_PORT"):
        if name not in environ:
            raise LaunchError(
                f"{present} is set, as torchrun does, but {name} is not; start several processes "
                f"with torchrun, which sets both, or unset {present} for one"
            )
    world_size = _whole(environ, "WORLD_SIZE", 1)
    rank = _whole(environ, "RANK", 0, below=("WORLD_SIZE", world_size))
    per_machine = _whole(environ, "LOCAL_WORLD_SIZE", 1)
    local_rank = _whole(environ, "LOCAL_RANK", 0, below=("LOCAL_WORLD_SIZE", per_machine))
    _whole(environ, "MASTER_PORT", 1)
    if world_size % per_machine or rank % per_machine != local_rank:
        raise LaunchError(
            f"RANK {rank} of WORLD_SIZE {world_size} and LOCAL_RANK {local_rank} of "
            f"LOCAL_WORLD_SIZE {per_machine} do not fit each other; give every machine the same "
            "--nproc-per-node"
        )
    num_machines, machine = world_size // per_machine, rank // per_machine
    return Layout(TORCHRUN, per_machine, num_machines, machine, local_rank, "env://")


def _of_slurm(environ: Mapping[str, str]) -> Layout:
    tasks = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environ else "SLURM_NTASKS"
    world_size = _whole(environ, tasks, 1)
    if world_size == 1:
        return Layout(SLURM, local_rank=0)
    rank = _whole(environ, "SLURM_PROCID", 0, below=(tasks, world_size))
    local_rank = _whole(environ, "SLURM_LOCALID", 0)
    machine = _whole(environ, "SLURM_NODEID", 0)
    per_machine = _tasks_per_node(environ, world_size)
    if rank != machine * per_machine + local_rank or world_size % per_machine:
        raise LaunchError(
            f"SLURM's task {rank} of {world_size} is task {local_rank} of node {machine}; with "
            f"{per_machine} on each node it should not be. Give srun --ntasks-per-node and "
            "--distribution=block"
        )
    num_machines = world_size // per_machine
    return Layout(SLURM, per_machine, num_machines, machine, local_rank, _slurm_url(environ))


def _tasks_per_node(environ: Mapping[str, str], world_size: int) -> int:
    """Of each node.

    Raises:
        LaunchError: not the same on each, or not known.
    """
    name = "SLURM_STEP_TASKS_PER_NODE"
    name = name if name in environ else "SLURM_TASKS_PER_NODE"
    if name in environ:
        try:
            counts = slurm.tasks_of_nodes(environ[name])
        except ValueError:
            raise LaunchError(f"{name} is {environ[name]!r}, which is no list of counts") from None
        if len(set(counts)) > 1 or sum(counts) != world_size:
            raise LaunchError(
                f"{name} is {environ[name]}, of {world_size} tasks; give srun --ntasks-per-node, "
                "so that every node has as many"
            )
        return counts[0]
    nodes = "SLURM_STEP_NUM_NODES" if "SLURM_STEP_NUM_NODES" in environ else "SLURM_NNODES"
    return max(world_size // _whole(environ, nodes, 1), 1)


def _slurm_url(environ: Mapping[str, str]) -> str:
    """Where the first task listens: ``MASTER_ADDR`` and ``MASTER_PORT`` may say otherwise."""
    nodes = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST", "")
    host = environ.get("MASTER_ADDR") or (slurm.first_host(nodes) if nodes else "")
    if not host:
        raise LaunchError("SLURM_STEP_NODELIST is not set; give MASTER_ADDR, the first task's host")
    if "MASTER_PORT" in environ:
        port = _whole(environ, "MASTER_PORT", 1)
    else:
        job = environ.get("SLURM_JOB_ID", "0")
        step = environ.get("SLURM_STEP_ID", "0")
        port = port_of_job(*(int(part) if part.isdecimal() else 0 for part in (job, step)))
    return f"tcp://{f'[{host}]' if ':' in host else host}:{port}"


def _whole(
    environ: Mapping[str, str], name: str, least: int, below: tuple[str, int] | None = None
) -> int:
    """The value of a variable.

    Args:
        below: a bound that it must not reach, and what that is called.

    Raises:
        LaunchError: it is not set, not a whole number or out of range.
    """
    text = environ.get(name)
    if text is None:
        raise LaunchError(f"the environment variable {name} is not set")
    value = int(text) if text.isascii() and text.isdecimal() else -1
    if value < least:
        raise LaunchError(
            f"the environment variable {name} is {text!r}; a whole number from {least} is wanted"
        )
    if below is not None and value >= below[1]:
        raise LaunchError(
            f"the environment variable {name} is {value}, but {below[0]} is {below[1]}; they count "
            "from 0"
        )
    return value
