"""One training at a time writes to an ``OUTPUT_DIR``."""

import fcntl
import os

from ..errors import ConfigError

_CLAIMED: dict[str, int] = {}
"""Folders of trainings of this process, and the open files that are locked."""


def claim_output_dir(path: str) -> None:
    """Keep other trainings out of the folder until this process ends, in whatever way.

    Two would write each other's checkpoints, and the second would remove what the first is writing.
    ``log.txt`` is locked, as long as nothing of this process opens it otherwise and closes it.
    Evaluations may use the folder in the meantime.

    Raises:
        ConfigError: another process trains there.
    """
    folder = os.path.realpath(path)
    if folder in _CLAIMED:
        return
    file = os.open(os.path.join(folder, "log.txt"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        # Not flock: the workers of a data loader would keep it when this process was killed.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        os.close(file)
        raise ConfigError(
            f"another training is writing to OUTPUT_DIR {path}: wait until it ends, or give "
            "another folder"
        ) from error
    except OSError:  # some network drives know no locks
        os.close(file)
        return
    _CLAIMED[folder] = file
