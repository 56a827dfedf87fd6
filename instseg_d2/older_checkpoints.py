"""Whether a checkpoint is damaged, and which ones of a folder come before it."""

import os
import re
import zipfile

_NAME = re.compile(r"model_(\d+|final)\.pth")
"""As Detectron2 names checkpoints: by their iteration. ``model_best.pth`` cannot be resumed."""


def damaged_record(path: str) -> str | None:
    """The first record of a file of ``torch.save`` with a wrong checksum, which loading ignores.

    Returns:
        None if all are right, and also if the file is no such file or has lost its end: reading it
        tells.
    """
    try:
        with zipfile.ZipFile(path) as file:
            return file.testzip()
    except Exception:  # damaged files raise errors of many types
        return None


def older_checkpoints(folder: str, named: str) -> list[str]:
    """Paths of the checkpoints in a folder, the one that was written last first.

    Args:
        folder: of the run.
        named: file name of the checkpoint that is not to be among them, nor any of a later or the
            same iteration. A name that says no iteration excludes no other.
    """
    limit = _iteration(named)
    names = [
        name
        for name in os.listdir(folder)
        if _NAME.fullmatch(name) and name != named and not _is_later(name, limit)
    ]
    paths = [os.path.join(folder, name) for name in names]
    return sorted(paths, key=lambda path: (os.path.getmtime(path), path), reverse=True)


def _iteration(name: str) -> int | None:
    match = _NAME.fullmatch(name)
    return int(match[1]) if match and match[1] != "final" else None


def _is_later(name: str, limit: int | None) -> bool:
    iteration = _iteration(name)
    return None not in (iteration, limit) and iteration >= limit  # type: ignore[operator]
