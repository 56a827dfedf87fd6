"""Find out, without importing it here, whether Detectron2 imports. Standard library only."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

# Runs in another process. Each line that it prints is a verdict, and the last one counts, so that
# the first one stands if importing ends the process.
_PROBE = r"""
import importlib.util, json, os, re, traceback

def look():
    spec = importlib.util.find_spec("detectron2")
    if spec is None or spec.origin is None:  # without __init__.py it is some other folder
        return {"state": "absent"}
    folder = os.path.dirname(os.path.realpath(spec.origin))
    with open(spec.origin, encoding="utf-8", errors="replace") as file:
        version = re.search(r"^__version__ = ['\"](.+)['\"]", file.read(), re.MULTILINE)
    found = {"state": "broken", "folder": folder, "version": version and version.group(1),
             "error": "Python ends while it imports it"}
    print(json.dumps(found), flush=True)
    try:
        import detectron2
    except Exception as error:  # a damaged package raises anything
        found["state"] = "broken" if is_its_own(error, folder) else "blocked"
        found["error"] = "%s: %s" % (type(error).__name__, error)
        return found
    return {**found, "state": "works", "error": None}

def is_its_own(error, folder):
    if isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] != "detectron2":
        return False
    places = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    places = [os.path.realpath(place) for place in places if not place.startswith("<")]
    return not places or places[-1].startswith(folder + os.sep)

print(json.dumps(look()), flush=True)
"""


@dataclass(frozen=True)
class Found:
    """What Python finds under the name ``detectron2``.

    Attributes:
        state: ``works``: it imports. ``blocked``: it is there, and what fails to import is
            something that it needs (torch is not installed yet, say). ``broken``: it fails by
            itself. ``absent``.
        folder: where it is; ``None`` if absent.
        version: its ``__version__``, if it says so.
        error: what importing it raised.
    """

    state: str
    folder: Path | None = None
    version: str | None = None
    error: str | None = None

    def is_at(self, place: Path) -> bool:
        """Say whether it is the package in the folder ``place``."""
        return self.folder is not None and self.folder.resolve() == place.resolve()


def find_detectron2() -> Found:
    """Import Detectron2 in another process of this Python and say what came of it.

    The process starts in an empty folder: a clone of Detectron2's repository in the current one
    would pass for the package.

    Raises:
        RuntimeError: the process ended without a verdict.
    """
    with tempfile.TemporaryDirectory() as empty:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE], cwd=empty, capture_output=True, text=True, check=False
        )
    verdicts = [line for line in done.stdout.splitlines() if line.startswith('{"state"')]
    if not verdicts:
        raise RuntimeError(f"{sys.executable} failed to look for Detectron2: {done.stderr}")
    verdict = json.loads(verdicts[-1])
    folder = verdict.pop("folder", None)
    return Found(folder=Path(folder) if folder else None, **verdict)
