"""Signals that end a training: what is saved, what is said, and the exit status."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.engine import HookBase, SimpleTrainer, hooks

from instseg_d2.checkpoint import InstSegCheckpointer
from instseg_d2.config import load_config
from instseg_d2.data import training_loader
from instseg_d2.data.config_datasets import register_config_datasets
from instseg_d2.engine import Trainer, signal_listener
from instseg_d2.engine.signal_listener import SignalListener
from instseg_d2.engine.stop_signals import StopOnSignal
from instseg_d2.signals import SIGNALS, forwarded_signals, held_back_signals, outlive_one_signal
from tests.small_model import Model
from tests.two_processes import spawn_two


class Send(HookBase):
    """Sends this process a signal in some iterations."""

    def __init__(self, number: int, *iterations: int) -> None:
        self._number = number
        self._iterations = iterations

    def before_step(self) -> None:
        if self.trainer.iter in self._iterations:
            os.kill(os.getpid(), self._number)


class Evaluation(HookBase):
    """Notes which checkpoints were there when it began."""

    def __init__(self, folder: Path, period: int) -> None:
        self._folder, self._period = folder, period
        self.found: list[list[str]] = []

    def after_step(self) -> None:
        if (self.trainer.iter + 1) % self._period == 0:
            self.found.append(sorted(path.name for path in self._folder.glob("*.pth")))


def small_trainer(
    folder: Path, sends: HookBase, eval_period: int = 0
) -> tuple[SimpleTrainer, Evaluation]:
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = SimpleTrainer(model, [torch.ones(2, 4)] * 100, optimizer)
    checkpointer = InstSegCheckpointer(model, str(folder), trainer=trainer)
    stop = StopOnSignal(checkpointer, eval_period)
    evaluation = Evaluation(folder, eval_period or 1000)
    periodic = [hooks.PeriodicCheckpointer(checkpointer, 1000)] if checkpointer.save_to_disk else []
    trainer.register_hooks([sends, *periodic, stop.before_evaluation, evaluation, stop])
    return trainer, evaluation


@pytest.mark.parametrize("number", SIGNALS)
def test_the_step_is_finished_and_saved(
    tmp_path: Path, number: int, capfd: pytest.CaptureFixture[str]
) -> None:
    before = [signal.getsignal(each) for each in SIGNALS]
    trainer, _ = small_trainer(tmp_path, Send(number, 4))
    with pytest.raises(SystemExit) as end:
        trainer.train(0, 20)
    assert end.value.code == 128 + number
    assert torch.load(tmp_path / "model_0000004.pth")["iteration"] == 4
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000004.pth"
    name, path = signal.Signals(number).name, tmp_path / "model_0000004.pth"
    assert capfd.readouterr().err.splitlines()[-1] == (
        f"stopped by {name} after iteration 4, saved as {path}; --resume goes on from there"
    )
    assert [signal.getsignal(each) for each in SIGNALS] == before


def test_it_is_saved_before_an_evaluation_that_may_take_too_long(tmp_path: Path) -> None:
    trainer, evaluation = small_trainer(tmp_path, Send(signal.SIGTERM, 5), eval_period=3)
    with pytest.raises(SystemExit):
        trainer.train(0, 20)
    assert evaluation.found == [[], ["model_0000005.pth"]]


def test_a_signal_in_the_last_step_changes_nothing(tmp_path: Path) -> None:
    trainer, _ = small_trainer(tmp_path, Send(signal.SIGTERM, 5))
    trainer.train(0, 6)
    assert [path.name for path in tmp_path.glob("*.pth")] == ["model_final.pth"]


def test_a_second_signal_ends_at_once_but_not_the_same_one_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, _ = small_trainer(tmp_path, HookBase())
    listener = trainer._hooks[-1]._listener
    killed: list[int] = []
    listener.start()
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        monkeypatch.setattr(os, "kill", lambda _, number: killed.append(number))
        listener._note(signal.SIGTERM, None)
        assert not killed
        monkeypatch.setattr(signal_listener, "SAME_SIGNAL", 0.0)
        listener._note(signal.SIGTERM, None)
        assert killed == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        listener.stop()


def test_processes_forked_meanwhile_are_ended_by_their_parents() -> None:
    """Else the end of a pool of processes waits for them for ever."""
    context = torch.multiprocessing.get_context("fork")
    child = context.Process(target=time.sleep, args=(60,))
    listener = SignalListener()
    listener.start()
    try:
        child.start()
        os.kill(os.getpid(), signal.SIGTERM)
        child.terminate()
        child.join(30)
        assert child.exitcode == -signal.SIGTERM
        assert listener.received == signal.SIGTERM  # it still listens here
    finally:
        child.kill()
        listener.stop()


def test_a_parent_passes_signals_on_to_its_children(tmp_path: Path) -> None:
    context = torch.multiprocessing.get_context("fork")
    ready = context.Event()
    child = context.Process(target=wait_for_a_signal, args=(ready,))
    with forwarded_signals():
        child.start()
        assert ready.wait(60)
        os.kill(os.getpid(), signal.SIGUSR1)
        child.join(60)
    assert child.exitcode == 7


def wait_for_a_signal(ready: Any) -> None:
    signal.signal(signal.SIGUSR1, lambda *_: os._exit(7))
    ready.set()
    time.sleep(60)


def test_a_worker_outlives_one_signal() -> None:
    context = torch.multiprocessing.get_context("fork")
    ready = context.Event()
    child = context.Process(target=work, args=(ready,))
    child.start()
    for _ in range(2):
        assert ready.wait(60)
        ready.clear()
        assert child.is_alive()
        os.kill(child.pid, signal.SIGINT)
    child.join(60)
    assert child.exitcode == -signal.SIGINT


def work(ready: Any) -> None:
    outlive_one_signal(0)
    ready.set()
    while signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        time.sleep(0.01)
    ready.set()
    time.sleep(60)


def test_a_signal_in_the_first_moment_of_a_worker_waits() -> None:
    context = torch.multiprocessing.get_context("fork")
    ready, started = context.Event(), context.Event()
    child = context.Process(target=work_slowly_begun, args=(started, ready))
    with held_back_signals():
        child.start()
    assert started.wait(60)
    os.kill(child.pid, signal.SIGTERM)
    assert ready.wait(60)
    os.kill(child.pid, signal.SIGTERM)
    child.join(60)
    assert child.exitcode == -signal.SIGTERM


def work_slowly_begun(started: Any, ready: Any) -> None:
    started.set()
    while signal.SIGTERM not in signal.sigpending():
        time.sleep(0.01)
    work(ready)


def test_workers_of_a_training_are_started_so(
    tiny_overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def note_what_waits(worker: int) -> None:
        waiting = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        (tmp_path / str(worker)).write_text(str(set(SIGNALS) <= waiting))

    monkeypatch.setattr(training_loader, "outlive_one_signal", note_what_waits)
    cfg = load_config(
        "sparseinst/sparse_inst_r50_giam", [*tiny_overrides, "DATALOADER.NUM_WORKERS", "1"]
    )
    register_config_datasets(cfg)
    stream = iter(Trainer.build_train_loader(cfg))
    next(stream)
    stream.close()
    assert (tmp_path / "0").read_text() == "True"
    assert not set(SIGNALS) & signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_workers_of_evaluations_outlive_it_too(tiny_overrides: list[str]) -> None:
    cfg = load_config("sparseinst/sparse_inst_r50_giam", tiny_overrides)
    register_config_datasets(cfg)
    loader = Trainer.build_test_loader(cfg, "shapes_val")
    assert loader.worker_init_fn is outlive_one_signal


# ---------------------------------------------------------------------------------- processes


def one_of_two(rank: int, folder: Path) -> None:
    """Only the second process is sent a signal."""
    trainer, _ = small_trainer(folder, Send(signal.SIGTERM, *([6] if rank else [])))
    with pytest.raises(SystemExit) as end:
        trainer.train(0, 50)
    (folder / f"{rank}.txt").write_text(f"{trainer.iter} {end.value.code}")


@pytest.mark.slow
def test_all_processes_end_after_the_same_iteration(tmp_path: Path) -> None:
    spawn_two(one_of_two, tmp_path)
    ends = [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)]
    assert ends == ["6 143", "6 143"]
    assert [path.name for path in tmp_path.glob("*.pth")] == ["model_0000006.pth"]


@pytest.mark.slow
def test_a_training_that_the_system_wants_to_end(
    repo: Path, tmp_path: Path, tiny_overrides: list[str]
) -> None:
    """As of SLURM, workers get the signal as well."""
    overrides = [
        *tiny_overrides, "DATASETS.TEST", "()", "SOLVER.MAX_ITER", "100000", "OUTPUT_DIR", "out",
        "SOLVER.CHECKPOINT_PERIOD", "2", "DATALOADER.NUM_WORKERS", "2",
    ]  # fmt: skip
    args = ["--config-file", "sparseinst/sparse_inst_r50_giam", *overrides]
    with subprocess.Popen(
        [sys.executable, str(repo / "train_net.py"), *args],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as program:
        while not (tmp_path / "out" / "last_checkpoint").exists() and program.poll() is None:
            time.sleep(0.1)
        os.killpg(program.pid, signal.SIGTERM)
        _, errors = program.communicate(timeout=120)
    last = errors.splitlines()[-1]
    assert program.returncode == 128 + signal.SIGTERM, errors
    assert last.startswith("stopped by SIGTERM after iteration ")
    assert "Traceback" not in errors
    name = (tmp_path / "out" / "last_checkpoint").read_text()
    iteration = torch.load(tmp_path / "out" / name, weights_only=True)["iteration"]
    assert f"after iteration {iteration}, saved as " in last
    assert not list((tmp_path / "out").glob("*.tmp"))
