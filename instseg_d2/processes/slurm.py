"""What SLURM says of the tasks that ``srun`` starts, by its environment variables."""

from __future__ import annotations

import re
from collections.abc import Mapping

#: Set in a job's steps, that is by ``srun``, and not in a batch script or an allocation's shell.
STEP_VARIABLES = ("SLURM_STEP_ID", "SLURM_STEP_NODELIST", "SLURM_STEP_NUM_TASKS")


def in_step(environ: Mapping[str, str]) -> bool:
    """Whether this process is a task that ``srun`` has started."""
    return "SLURM_PROCID" in environ and any(name in environ for name in STEP_VARIABLES)


def first_host(nodes: str) -> str:
    """The first of a list of hosts in SLURM's short form: ``node[01-03,07],gpu5`` gives ``node01``.

    Args:
        nodes: not empty.
    """
    first = re.split(r",(?![^[]*\])", nodes, maxsplit=1)[0]
    return re.sub(r"\[([^],-]*)[^]]*\]", r"\1", first)


def tasks_of_nodes(text: str) -> list[int]:
    """The number of tasks of each node, from SLURM's short form: ``2(x3),1`` gives [2, 2, 2, 1].

    Raises:
        ValueError: the text is not of that form.
    """
    counts: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if match is None:
            raise ValueError(text)
        counts += [int(match[1])] * int(match[2] or 1)
    return counts
