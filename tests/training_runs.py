"""``train_net.py`` as a user runs it."""

import subprocess
import sys
from pathlib import Path

# An all but untrained model finds nothing at the usual thresholds.
FIND_SOMETHING = [
    *("MODEL.SPARSE_INST.CLS_THRESHOLD", "0.0"),
    *("MODEL.SPARSE_INST.MASK_THRESHOLD", "0.01"),
]
# Else norms become part of the convolutions, which rounds differently.
AS_IN_TRAINING = [
    *("MODEL.INFERENCE.FOLD_NORMS", "False"),
    *("MODEL.INFERENCE.CHANNELS_LAST", "False"),
]
RESULTS = Path("inference") / "coco_instances_results.json"


def train_net(
    repo: Path, cwd: Path, *args: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``train_net.py`` in the folder ``cwd``, in this process's environment or another."""
    return subprocess.run(
        [sys.executable, str(repo / "train_net.py"), *args],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
