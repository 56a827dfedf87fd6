"""SIGTERM, SIGINT and SIGUSR1 end a training with a checkpoint.

Pre-emptible machines send SIGTERM some time before they go, SLURM the signal that its ``--signal``
names before the time limit; Ctrl-C is SIGINT. The step that runs is finished and saved, in several
processes that of the same iteration. The exit status is 128 + the signal's number, as a shell has
it. A second signal ends the process at once.
"""

from __future__ import annotations

import os
import signal
import sys

from detectron2.engine import HookBase, hooks
from detectron2.utils import comm

from ..checkpoint import InstSegCheckpointer
from .selection import is_due
from .signal_listener import SignalListener


class StopOnSignal(HookBase):
    """The last hook but those that end the training themselves.

    :attr:`before_evaluation` is to be a hook, too, between the one that saves checkpoints and the
    evaluation, for which the time may be too short.
    """

    def __init__(self, checkpointer: InstSegCheckpointer, eval_period: int) -> None:
        """
        Args:
            checkpointer: saves in the main process.
            eval_period: steps between two evaluations; 0: there is one at the end.
        """
        self._checkpointer = checkpointer
        self._eval_period = eval_period
        self._listener = SignalListener()
        self._signal = 0  # that the processes have agreed on
        self._message = ""
        self.before_evaluation = hooks.CallbackHook(after_step=lambda _: self._after_checkpoint())

    def before_train(self) -> None:
        self._listener.start()

    def _after_checkpoint(self) -> None:
        self._signal = max(comm.all_gather(self._listener.received))
        iteration, max_iter = self.trainer.iter, self.trainer.max_iter
        if self._ends() and is_due(iteration, max_iter, self._eval_period):
            self._save()

    def _ends(self) -> bool:
        """Whether the training is to end here; its last step ends, and has saved, it anyway."""
        return self._signal > 0 and self.trainer.iter + 1 < self.trainer.max_iter

    def after_step(self) -> None:
        if not self._ends():
            return
        name = self._save()
        path = os.path.join(self._checkpointer.save_dir, f"{name}.pth")
        self._message = (
            f"stopped by {signal.Signals(self._signal).name} after iteration {self.trainer.iter}, "
            f"saved as {path}; --resume goes on from there"
        )
        raise SystemExit(128 + self._signal)

    def _save(self) -> str:
        """What Detectron2 would save in this iteration."""
        name = f"model_{self.trainer.iter:07d}"
        self._checkpointer.save(name, iteration=self.trainer.iter)
        return name

    def after_train(self) -> None:
        if self._message:
            # The first process that ends takes the others with it.
            comm.synchronize()
            if comm.is_main_process():
                print(self._message, file=sys.stderr)
        self._listener.stop()
