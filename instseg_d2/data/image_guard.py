"""Image files that are not to be opened at all."""

from __future__ import annotations

import os

from instseg_d2.remote_files import url_problem

_POSTSCRIPT = (b"%!PS", b"\xc5\xd0\xd3\xc6")


def image_file_problem(path: str | os.PathLike[str]) -> str | None:
    """Why a file is no image to be opened, in words that follow its name; None for others.

    A pipe would be waited for forever. For PostScript Pillow starts Ghostscript, an interpreter of
    a whole language, whatever the file's suffix says.
    """
    if "://" in str(path):
        return url_problem(path)
    if not os.path.isfile(path):
        return "is no file, but a folder or a device."
    try:
        with open(path, "rb") as file:
            start = file.read(4)
    except OSError:  # said where it is read
        return None
    if start in _POSTSCRIPT:
        return "is PostScript, which is a program: convert it to PNG or JPEG, or remove it."
    return None
