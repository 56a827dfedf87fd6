import subprocess
import sys
from pathlib import Path

import pytest

from instseg_d2.engine.output_dir import claim_output_dir
from instseg_d2.errors import ConfigError

HOLDER = """
import fcntl, os, sys
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.lockf(file, fcntl.LOCK_EX)
if os.fork() == 0:  # as a worker of a data loader, which outlives it for a while
    sys.stdin.read()
    os._exit(0)
print("locked", flush=True)
sys.stdin.read()
"""


def test_a_folder_is_one_trainings_until_its_process_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "log.txt")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as other:  # fmt: skip
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(
            ConfigError, match=f"another training is writing to OUTPUT_DIR {tmp_path}"
        ):
            claim_output_dir(str(tmp_path))
        other.kill()
        other.wait()
        claim_output_dir(str(tmp_path))


def test_a_process_may_train_in_a_folder_twice(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("of an earlier run\n")
    claim_output_dir(str(tmp_path))
    claim_output_dir(f"{tmp_path}/.")
    assert (tmp_path / "log.txt").read_text() == "of an earlier run\n"
