"""A progress bar for the training loop."""

from detectron2.engine import HookBase
from tqdm import tqdm

#: Iterations between two updates of the numbers beside the bar.
REFRESH_PERIOD = 10
#: The loss shown is the median of this many iterations.
WINDOW = 20


class ProgressBar(HookBase):
    """Shows iterations, time left, total loss and learning rate on stderr."""

    def before_train(self) -> None:
        self._bar = tqdm(
            total=self.trainer.max_iter,
            initial=self.trainer.start_iter,
            desc="training",
            unit="it",
            dynamic_ncols=True,
        )

    def after_step(self) -> None:
        self._bar.update()
        if self.trainer.iter % REFRESH_PERIOD == 0:
            histories = self.trainer.storage.histories()
            if "total_loss" in histories and "lr" in histories:
                self._bar.set_postfix(
                    loss=f"{histories['total_loss'].median(WINDOW):.3f}",
                    lr=f"{histories['lr'].latest():.1e}",
                )

    def after_train(self) -> None:
        self._bar.close()
