"""``train_net.py`` in two processes, as torchrun and srun start them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from instseg_d2.processes.meeting import free_port
from tests.training_runs import FIND_SOMETHING, RESULTS

CONFIG = ["--config-file", "sparseinst/sparse_inst_r50_giam"]
#: Far more than is needed on a machine with nothing else to do.
DEADLINE = 240.0


def environment(**more: str) -> dict[str, str]:
    """One thread for each process, and no variable of another launcher."""
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
    assert len(images) == 6  # of both processes
    assert done.stdout.count("copypaste: Task: segm") == 1


def wait_for_training(process: subprocess.Popen, log: Path) -> None:
    """Until the first metrics are logged."""
    end = time.monotonic() + DEADLINE
    while not (log.exists() and "iter: " in log.read_text()):
        assert process.poll() is None, "it has ended"
        assert time.monotonic() < end, "it does not come to train"
        time.sleep(0.2)


@pytest.mark.slow
def test_a_killed_task_of_slurm_ends_the_others(
    repo: Path, tmp_path: Path, tiny_overrides: list[str]
) -> None:
    """As ``srun --ntasks 2`` on one machine; the training would go on for days."""
    overrides = [*tiny_overrides, "OUTPUT_DIR", "out", "SOLVER.MAX_ITER", "1000000"]
    tasks, port = [], str(free_port())
    for number in "01":
        slurm = {
            "SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2", "SLURM_NODEID": "0",
            "SLURM_PROCID": number, "SLURM_LOCALID": number, "SLURM_STEP_NODELIST": "localhost",
            "SLURM_STEP_TASKS_PER_NODE": "2",
        }  # fmt: skip
        with (tmp_path / f"console{number}").open("w") as console:
            command = [sys.executable, str(repo / "train_net.py"), *CONFIG, *overrides]
            env = environment(**slurm, MASTER_PORT=port)
            tasks.append(
                subprocess.Popen(command, cwd=tmp_path, env=env, stdout=console, stderr=console)
            )
    try:
        wait_for_training(tasks[0], tmp_path / "out" / "log.txt")
        tasks[1].kill()
        start = time.monotonic()
        assert tasks[0].wait(DEADLINE) == 1
        assert time.monotonic() - start < 60
    finally:
        for task in tasks:
            task.kill()
    assert tasks[1].wait() == -signal.SIGKILL
    text = "".join((tmp_path / f"console{number}").read_text() for number in "01")
    assert "Running in 2 processes on 1 machine (SLURM), gloo." in text
    assert text.count("error: rank 1 was ended without a word") == 1
    assert "Traceback" not in text
