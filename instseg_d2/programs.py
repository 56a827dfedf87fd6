"""Running the command-line programs of the project one after the other, as a person would."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from .errors import UserError
from .training_curves import plot_training_curves


def run_program(program: Path, arguments: Sequence[str], console: Path) -> None:
    """Run a program in a process of its own; its output goes to a file, its errors are shown.

    Args:
        console: the file, written anew; its folder is made.

    Raises:
        UserError: the program failed.
    """
    console.parent.mkdir(parents=True, exist_ok=True)
    with console.open("w") as log:
        code = subprocess.run(
            [sys.executable, str(program), *arguments], stdout=log, check=False
        ).returncode
    if code:
        raise UserError(f"{program.name} failed with exit status {code}, see above and {console}")


def run_training(train_net: Path, config: str, overrides: Sequence[str], output: Path) -> None:
    """Train anew with ``train_net.py`` and draw the curves.

    Args:
        config: path or name of a config.
        output: folder for everything; ``console.txt`` in it receives the log.

    Raises:
        UserError: the training failed.
    """
    (output / "metrics.json").unlink(missing_ok=True)  # Detectron2 would append to it
    print(f"Training {config}; what is logged goes to {output}/console.txt", flush=True)
    arguments = ["--config-file", config, "--progress-bar", *overrides, "OUTPUT_DIR", str(output)]
    run_program(train_net, arguments, output / "console.txt")
    plot_training_curves(str(output / "metrics.json"), str(output / "training_curves.png"))
