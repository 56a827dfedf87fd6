"""Exceptions in one line for people: what is wrong, where, and what to do."""

from __future__ import annotations

import errno
import re
import traceback
from pathlib import Path

from .errors import UserError, user_message

#: By ``errno``: what is wrong with the file, and what to do. Others keep the system's words.
SYSTEM_ERRORS = {
    errno.ENOENT: "does not exist; check the path",
    errno.EACCES: "is not accessible to you; change its permissions, or name another place",
    errno.EPERM: "is not accessible to you; change its permissions, or name another place",
    errno.EROFS: "lies on a disk that can only be read; name another place",
    errno.EISDIR: "is a folder; name a file",
    errno.ENOTDIR: "cannot be, because a part of this path is a file; name another place",
    errno.EEXIST: "exists and is no folder; name another place",
    errno.ENAMETOOLONG: "is too long a name; give a shorter one",
    errno.ENOSPC: "cannot be written, because the disk is full; make room or name another place",
    errno.EDQUOT: "cannot be written, because your quota is used up; make room",
}

OUT_OF_MEMORY = (
    "the memory{where} does not suffice; take smaller batches (in training SOLVER.IMS_PER_BATCH, "
    "with SOLVER.ACCUMULATE_STEPS to make up for it) or smaller images (INPUT.MIN_SIZE_TRAIN, "
    "INPUT.MIN_SIZE_TEST and the MAX_SIZE keys)"
)
LOST_WORKER = (
    "a process that loads data was killed, most often for want of memory or of shared memory "
    "(/dev/shm); lower DATALOADER.NUM_WORKERS, 0 loads in the main process"
)


def error_line(error: BaseException) -> str:
    """The message of any exception, without a traceback and in one line.

    Of mistakes of the program it says what kind and where, and how to see more.
    """
    if isinstance(error, UserError):
        message = user_message(error)
    elif isinstance(error, OSError):
        message = system_message(error)
    elif _is_out_of_memory(error):
        message = OUT_OF_MEMORY.format(where=" of the GPU" if "CUDA" in str(error) else "")
    elif isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker"):
        message = LOST_WORKER
    else:
        message = _unexpected(error)
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    ends = [" " if line[-1] in ".,:;?!" else "; " for line in lines]
    return "".join(map("".join, zip(lines, [*ends[:-1], ""], strict=True)))


def system_message(error: OSError) -> str:
    """What the system refuses, with the file and, of what is frequent, with what to do."""
    if error.filename is None or error.strerror is None:
        return str(error)
    # What is written whole has another name until then, see atomic_file.py.
    name = re.sub(r"\.[0-9a-f]{16}\.tmp$", "", str(error.filename))
    if name != str(error.filename) and error.errno == errno.ENOENT:
        return f"{name} cannot be written: its folder does not exist; make it"
    text = SYSTEM_ERRORS.get(error.errno or 0, f"cannot be used: {error.strerror}")
    return f"{name} {text}"


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, PyTorch or OpenCV got no memory."""
    names = {kind.__name__ for kind in type(error).__mro__}  # PyTorch need not be imported for it
    if names & {"MemoryError", "OutOfMemoryError"}:
        return True
    text = str(error)
    return "can't allocate memory" in text or "(-4:Insufficient memory)" in text


def _unexpected(error: BaseException) -> str:
    """What is no mistake of the user, as far as is known."""
    place = ""
    for frame in traceback.extract_tb(error.__traceback__):
        path = Path(frame.filename)
        if "site-packages" not in path.parts and path.name != "command_line.py":
            place = f" in {path.parent.name}/{path.name}, line {frame.lineno}"
    lines = str(error).strip().splitlines()
    said = f": {lines[-1] if 'Original Traceback' in str(error) else lines[0]}" if lines else ""
    return (
        f"{type(error).__name__}{place}{said}. The program did not expect this; the same command "
        "with --debug shows how it came about"
    )
