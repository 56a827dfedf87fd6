"""Two processes that exchange tensors (gloo), started and ended as those of the programs are."""

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.multiprocessing import spawn

from instseg_d2.processes import Layout, launch
from instseg_d2.processes.layout import TORCHRUN


def spawn_two(worker: Callable[..., None], folder: Path, *args: Any) -> None:
    """Run ``worker(rank, folder, *args)`` in two new processes, until both have ended.

    Args:
        worker: at the top level of a module.
        folder: where they meet and may leave results.

    Raises:
        ProcessExitedException: one has failed; stderr says how.
    """
    spawn(_take_part, (worker, folder, args), nprocs=2)


def _take_part(rank: int, worker: Callable[..., None], folder: Path, args: tuple[Any, ...]) -> None:
    def program(_: Namespace) -> None:
        torch.set_num_threads(1)
        worker(rank, folder, *args)

    layout = Layout(TORCHRUN, per_machine=2, local_rank=rank, url=f"file://{folder}/meeting")
    launch(program, Namespace(debug=False), layout, lambda *_: "cpu")
