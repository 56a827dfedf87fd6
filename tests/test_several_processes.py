"""``train_net.py`` in two processes, as its options, torchrun and srun start them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from fcntl import LOCK_EX, flock
from math import ceil
from pathlib import Path
from subprocess import DEVNULL

import pytest
import torch

from instseg_d2.config import load_config
from instseg_d2.modeling import build_model
from instseg_d2.processes.ports import free_port
from tests.training_runs import FIND_SOMETHING, RESULTS, train_net

CONFIG = ["--config-file", "sparseinst/sparse_inst_r50_giam"]
#: Far more than is needed on a machine with nothing else to do.
DEADLINE = 240.0


def environment(**more: str) -> dict[str, str]:
    """One thread for each process, as more round differently, and no variable of a launcher."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "MASTER_"))}
    return {**kept, "OMP_NUM_THREADS": "1", **more}


@pytest.mark.slow
def test_torchrun_trains_and_evaluates(
    repo: Path, tmp_path: Path, tiny_overrides: list[str]
) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"),
            *("--master-port", str(free_port()), str(repo / "train_net.py"), *CONFIG),
            *(*tiny_overrides, *FIND_SOMETHING, "OUTPUT_DIR", "out"),
        ],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("Running in 2 processes on 1 machine (torchrun), gloo.") == 1
    out = tmp_path / "out"
    names = {path.name.split(".out.")[0] for path in out.iterdir()}
    assert names == {
        "config.yaml", "events", "inference", "last_checkpoint", "log.txt", "log.txt.rank1",
        "metrics.json", "model_final.pth",
    }  # fmt: skip
    images = {result["image_id"] for result in json.loads((out / RESULTS).read_text())}
    assert images & {1, 2, 3}  # of the first process
    assert images & {4, 5, 6}
    assert done.stdout.count("copypaste: Task: segm") == 1


def wait_until(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    """The condition holds; the process must run until then."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert process.poll() is None, "it has ended"
        assert time.monotonic() < end, "it does not come so far"
        time.sleep(0.02)


class Tasks:
    """As ``srun --ntasks 2 train_net.py`` on one machine; a context manager that kills them.

    Attributes:
        processes: one for each task.
    """

    def __init__(self, repo: Path, folder: Path, args: list[str]) -> None:
        self.processes: list[subprocess.Popen] = []
        self._consoles = [folder / f"console{number}" for number in "01"]
        port = str(free_port())
        for number, path in enumerate(self._consoles):
            slurm = {
                "SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2",
                "SLURM_NODEID": "0", "SLURM_PROCID": f"{number}", "SLURM_LOCALID": f"{number}",
                "SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_TASKS_PER_NODE": "2",
            }  # fmt: skip
            command = [sys.executable, str(repo / "train_net.py"), *args]
            env = environment(**slurm, MASTER_PORT=port)
            with path.open("w") as console:
                self.processes.append(
                    subprocess.Popen(command, cwd=folder, env=env, stdout=console, stderr=console)
                )

    def kill_the_second(self) -> None:
        """The first must end by itself, within a minute, and say why."""
        first, second = self.processes
        second.kill()
        start = time.monotonic()
        assert first.wait(DEADLINE) == 1
        assert time.monotonic() - start < 60
        assert second.wait() == -signal.SIGKILL
        assert self.text().count("error: rank 1 was ended without a word") == 1
        assert "Traceback" not in self.text()

    def text(self) -> str:
        """What all of them have printed."""
        return "".join(path.read_text() for path in self._consoles)

    def __enter__(self) -> "Tasks":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.mark.slow
def test_a_killed_task_of_slurm_ends_the_others(
    repo: Path, tmp_path: Path, tiny_overrides: list[str]
) -> None:
    """The training would go on for days."""
    log = tmp_path / "out" / "log.txt"
    overrides = [*tiny_overrides, "OUTPUT_DIR", "out", "SOLVER.MAX_ITER", "1000000"]
    with Tasks(repo, tmp_path, [*CONFIG, *overrides]) as tasks:
        wait_until(lambda: log.exists() and "iter: " in log.read_text(), tasks.processes[0])
        tasks.kill_the_second()
    assert "Running in 2 processes on 1 machine (SLURM), gloo." in tasks.text()


# -------------------------------------------------------------------- evaluations that are killed

IMAGES = 300
KILLED_AFTER = 5
"""Images that each of the processes has predicted; far fewer than it has to."""


@pytest.fixture(scope="module")
def evaluation(tiny_overrides: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Arguments of ``train_net.py`` for an evaluation that takes seconds and finds something."""
    overrides = [
        *tiny_overrides, *FIND_SOMETHING,
        "DATASETS.SHAPES.NUM_VAL", str(IMAGES), "DATASETS.SHAPES.SEED", "9",
    ]  # fmt: skip
    weights = tmp_path_factory.mktemp("weights") / "model.pth"
    torch.manual_seed(0)
    torch.save(build_model(load_config(CONFIG[1], overrides)).state_dict(), weights)
    return ["--eval-only", *CONFIG, *overrides, "MODEL.WEIGHTS", str(weights)]


@pytest.fixture(scope="module")
def undisturbed(
    repo: Path, evaluation: list[str], tmp_path_factory: pytest.TempPathFactory
) -> bytes:
    """The results file of one process."""
    folder = tmp_path_factory.mktemp("undisturbed")
    done = train_net(repo, folder, *evaluation, "OUTPUT_DIR", "out", env=environment())
    assert done.returncode == 0, done.stdout + done.stderr
    results = (folder / "out" / RESULTS).read_bytes()
    assert len({result["image_id"] for result in json.loads(results)}) > IMAGES / 4
    return results


def part_files(folder: Path) -> list[Path]:
    """Of two processes that are evaluating."""
    return [folder / "out" / "inference" / f"shapes_val.rank{rank}.part" for rank in range(2)]


def noted(folder: Path) -> list[int]:
    """How many predictions each of two processes has noted."""
    paths = part_files(folder)
    return [path.read_bytes().count(b"\n") - 1 if path.exists() else 0 for path in paths]


def kill_all(repo: Path, folder: Path, args: list[str]) -> None:
    """Of ``--num-gpus 2``, as a machine that is switched off does."""
    with subprocess.Popen(
        [sys.executable, str(repo / "train_net.py"), "--num-gpus", "2", *args], cwd=folder,
        env=environment(), start_new_session=True, stdout=DEVNULL, stderr=DEVNULL,
    ) as program:  # fmt: skip
        try:
            wait_until(lambda: min(noted(folder)) >= KILLED_AFTER, program)
        finally:
            with suppress(ProcessLookupError):  # has ended
                os.killpg(program.pid, signal.SIGKILL)
    for path in part_files(folder):
        with path.open() as file:
            flock(file, LOCK_EX)  # waits for the end of the process that has it


def kill_one(repo: Path, folder: Path, args: list[str]) -> None:
    """Of two tasks of SLURM."""
    with Tasks(repo, folder, args) as tasks:
        wait_until(lambda: min(noted(folder)) >= KILLED_AFTER, tasks.processes[0])
        tasks.kill_the_second()


@pytest.mark.slow
@pytest.mark.parametrize(("kill", "processes"), [(kill_all, 2), (kill_one, 1)])
def test_a_killed_evaluation_goes_on(
    repo: Path,
    tmp_path: Path,
    evaluation: list[str],
    undisturbed: bytes,
    kill: Callable[[Path, Path, list[str]], None],
    processes: int,
) -> None:
    """With as many processes or fewer; the results are those of an undisturbed one, to the byte."""
    args = [*evaluation, "OUTPUT_DIR", "out"]
    kill(repo, tmp_path, args)
    count = sum(noted(tmp_path))
    assert 2 * KILLED_AFTER <= count < IMAGES
    assert not (tmp_path / "out" / RESULTS).exists()
    done = train_net(repo, tmp_path, "--num-gpus", str(processes), *args, env=environment())
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(f"predicted {count} of the {IMAGES} images") == 1
    assert f"Start inference on {ceil((IMAGES - count) / processes)} batches" in done.stdout
    assert (tmp_path / "out" / RESULTS).read_bytes() == undisturbed
    assert noted(tmp_path) == [0, 0]
