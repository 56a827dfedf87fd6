"""Files that are there whole or not at all."""

import contextlib
import json
import os
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
