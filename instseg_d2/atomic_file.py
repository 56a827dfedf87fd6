"""Files that are there whole or not at all."""

import contextlib
import glob
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


@contextlib.contextmanager
def written_whole(path: str) -> Iterator[IO[bytes]]:
    """Open a file for writing that takes the name ``path`` only once it is complete.

    Until then it lies beside it under a name that nothing else has, so that of several writers each
    writes a whole file, and the last one's stays. It has the permissions of the file that it
    replaces, or those of any new file.
    """
    temporary = f"{path}.{secrets.token_hex(8)}.tmp"
    file = open(temporary, "xb")  # noqa: SIM115 - closed below; what exists is not to be removed
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # else a power cut may leave the new name without content
        if os.path.exists(path):
            shutil.copymode(path, temporary)
        os.replace(temporary, path)
        _sync_folder(os.path.dirname(path) or ".")  # else a power cut may bring the old name back
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)
        raise


def write_json_whole(path: Path, content: Any) -> None:
    """Write ``content`` as JSON for people to read, and say so; its folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(str(path)) as file:
        file.write(json.dumps(content, indent=1).encode())
    print(f"Wrote {path}")


def remove_leftovers(folder: str, names: str) -> list[str]:
    """Remove what :func:`written_whole` left of files when their process was killed.

    Args:
        folder: nothing may be writing these files there now.
        names: regular expression of the files' names.

    Returns:
        the paths of what was removed.
    """
    leftover = re.compile(rf"(?:{names})\.[0-9a-f]{{16}}\.tmp")
    found = glob.glob(os.path.join(glob.escape(folder), "*.tmp"))
    paths = [path for path in found if leftover.fullmatch(os.path.basename(path))]
    for path in paths:
        os.remove(path)
    return paths


def _sync_folder(folder: str) -> None:
    with contextlib.suppress(OSError):  # not every file system can, and the file is there
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
