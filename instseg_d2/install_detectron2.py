"""Install Detectron2 0.6 without its repository: ``python -m instseg_d2.install_detectron2``.

Detectron2 is on no package index under its own name, and its authors' wheels stop at torch 1.10.
The wheel of LabGym 3.1.2 carries all of Detectron2's Python code at upstream commit 864913f0
(2024-01-08), moved under ``LabGym.detectron2``. This program fetches that wheel with pip, takes
that one folder out of it, puts the import prefix back, checks the result against the digest of the
upstream tree, and installs it as the distribution ``detectron2`` that pip can show and remove. The
rest of the wheel, which has another licence, is not installed. A Detectron2 that already imports
is kept.

Only the standard library is used: the program runs before torch is there.
"""

from __future__ import annotations

import argparse
import base64
import csv
import hashlib
import io
import os
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from instseg_d2.detectron2_probe import Found, find_detectron2
from instseg_d2.errors import UserError

REQUIREMENT = "LabGym==3.1.2"
WHEEL_SHA256 = "a2900cff8a3fb508e1975f19b5f9abd9f261966db87b0c332697fb4138c1cb2b"
TREE_SHA256 = "2cd348fb57fbc71830c04cf9c924912e26136dccb64289b76d75babfa79e1c85"
VERSION = "0.6+864913f0"
INSTALLER = "instseg_d2.install_detectron2"

_FOLDER_IN_WHEEL = "LabGym/detectron2/"
_DIST_INFO = f"detectron2-{VERSION}.dist-info"
_STAGE_PREFIX = ".detectron2-staging-"
_DOWNLOAD = ["download", "--no-deps", "--ignore-requires-python", "--only-binary", ":all:"]
_AUTHORS_WAY = (
    "Detectron2's authors' way needs git and a compiler: pip install --no-build-isolation "
    "'git+https://github.com/facebookresearch/detectron2.git'"
)

_METADATA = f"""\
Metadata-Version: 2.1
Name: detectron2
Version: {VERSION}
Summary: Detectron2 0.6, the Python code without the compiled ops
Home-page: https://github.com/facebookresearch/detectron2
Author: FAIR
License: Apache-2.0
Requires-Python: >=3.7
Requires-Dist: Pillow>=7.1
Requires-Dist: cloudpickle
Requires-Dist: fvcore<0.1.6,>=0.1.5
Requires-Dist: hydra-core>=1.1
Requires-Dist: iopath>=0.1.7
Requires-Dist: matplotlib
Requires-Dist: omegaconf<2.4,>=2.1
Requires-Dist: packaging
Requires-Dist: pycocotools>=2.0.2
Requires-Dist: setuptools<82
Requires-Dist: tabulate
Requires-Dist: tensorboard
Requires-Dist: termcolor>=1.1
Requires-Dist: tqdm>4.29.0
Requires-Dist: yacs>=0.1.8

These files are Detectron2 at upstream commit 864913f0 (2024-01-08), byte for byte. They were taken
from the folder LabGym/detectron2 of the wheel {REQUIREMENT} by {INSTALLER},
which put the import prefix `LabGym.detectron2` back to `detectron2`.
sha256 of the wheel: {WHEEL_SHA256}
"""


class InstallError(UserError):
    """Detectron2 is not ready for use; the message says why and what to do."""


def fetch_wheel(folder: Path) -> Path:
    """Download the wheel with pip into ``folder`` and return its path.

    Raises:
        InstallError: pip is absent, or cannot download it.
    """
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "-q"),
            *(*_DOWNLOAD, "-d", str(folder), REQUIREMENT),
        ],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode == 0 and wheels:
        return wheels[0]
    if "No module named pip" in done.stderr:
        raise InstallError(f"this Python has no pip. Run: {sys.executable} -m ensurepip --upgrade")
    raise InstallError(
        f"pip cannot download {REQUIREMENT}: {_last_line(done.stderr)} "
        "(is a package index within reach?)\n"
        f"On a machine that can, run: pip {' '.join(_DOWNLOAD)} {REQUIREMENT}; then give the file "
        f"to this program with --wheel. {_AUTHORS_WAY}"
    )


def _last_line(text: str) -> str:
    """Return the last line that pip or Python marks as an error, else the last one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["it printed nothing"])[-1]


def read_wheel(wheel: Path) -> dict[str, bytes]:
    """Check a wheel, and return Detectron2's files as upstream has them.

    Returns:
        Contents by path relative to the ``detectron2`` folder, with ``/`` between the parts.

    Raises:
        InstallError: the wheel cannot be read or is not the verified one, or its files are not
            Detectron2's.
    """
    try:
        content = wheel.read_bytes()
    except OSError as error:
        raise InstallError(f"{wheel}: {error.strerror}. Give --wheel the LabGym wheel.") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != WHEEL_SHA256:
        raise InstallError(
            f"{wheel.name} is not the verified wheel of {REQUIREMENT}: its sha256 is {digest}, not "
            f"{WHEEL_SHA256}.\nFetch it again with: pip {' '.join(_DOWNLOAD)} --no-cache-dir "
            f"{REQUIREMENT}, and give it with --wheel. {_AUTHORS_WAY}"
        )
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        files = {
            _safe_path(member): archive.read(member).replace(b"LabGym.detectron2", b"detectron2")
            for member in archive.infolist()
            if member.filename.startswith(_FOLDER_IN_WHEEL) and not member.is_dir()
        }
    if tree_digest(files) != TREE_SHA256:
        raise InstallError(
            f"the Detectron2 files in {wheel.name} are not those of upstream. Nothing was "
            f"installed.\n{_AUTHORS_WAY}"
        )
    return files


def _safe_path(member: zipfile.ZipInfo) -> str:
    """Return the path of a file below ``detectron2``, refusing one that could leave it."""
    path = member.filename[len(_FOLDER_IN_WHEEL) :]
    parts = path.split("/")
    is_link = stat.S_ISLNK(member.external_attr >> 16)
    if is_link or "\\" in path or ":" in path or any(part in ("", ".", "..") for part in parts):
        raise InstallError(f"the wheel holds an unsafe name: {member.filename!r}")
    return path


def tree_digest(files: Mapping[str, bytes]) -> str:
    """Return the sha256 over the sorted lines ``path NUL sha256hex(content) LF``."""
    lines = sorted(
        path.encode() + b"\0" + hashlib.sha256(content).hexdigest().encode() + b"\n"
        for path, content in files.items()
    )
    return hashlib.sha256(b"".join(lines)).hexdigest()


def _dist_info(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the metadata that makes the files a distribution, by path relative to its folder."""
    info = {
        "METADATA": _METADATA.encode(),
        "WHEEL": f"Wheel-Version: 1.0\nGenerator: {INSTALLER}\n"
        "Root-Is-Purelib: true\nTag: py3-none-any\n".encode(),
        "INSTALLER": f"{INSTALLER}\n".encode(),
        "top_level.txt": b"detectron2\n",
    }
    record = io.StringIO()
    writer = csv.writer(record, lineterminator="\n")
    recorded = {f"detectron2/{path}": content for path, content in files.items()}
    recorded.update({f"{_DIST_INFO}/{path}": content for path, content in info.items()})
    for path, content in sorted(recorded.items()):
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        writer.writerow([path, f"sha256={digest}", len(content)])
    writer.writerow([f"{_DIST_INFO}/RECORD", "", ""])
    return {**info, "RECORD": record.getvalue().encode()}


def install_files(files: Mapping[str, bytes], target: Path) -> None:
    """Put Detectron2's files and metadata into ``target`` in place of any that are there.

    Everything is written beside its final place first and then renamed, so that an interrupted
    run leaves what was there before.

    Args:
        files: contents by path, from :func:`read_wheel`.
        target: a ``site-packages`` folder.

    Raises:
        InstallError: ``target`` cannot be written.
    """
    try:
        for leftover in target.glob(f"{_STAGE_PREFIX}*"):  # of a run that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        stage = Path(tempfile.mkdtemp(prefix=_STAGE_PREFIX, dir=target))
    except OSError as error:
        raise InstallError(_unwritable(target, error)) from error
    try:
        _write(stage / "new" / "detectron2", files)
        _write(stage / "new" / _DIST_INFO, _dist_info(files))
        _swap(stage, target)
    except OSError as error:
        raise InstallError(_unwritable(target, error)) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _unwritable(target: Path, error: OSError) -> str:
    return (
        f"cannot install into {target}: {error.strerror or error}. Nothing was changed.\n"
        "Work in a virtual environment of your own (python3 -m venv .venv), or run this as the "
        "user who owns that folder."
    )


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    for path, content in files.items():
        place = folder.joinpath(*PurePosixPath(path).parts)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)


def _swap(stage: Path, target: Path) -> None:
    """Move the old files into the stage and the new ones out of it, or leave all as it was.

    The metadata goes first: a run killed in between then leaves metadata without a package, which
    the next run mends, and never a package that pip does not know.
    """
    aside = stage / "old"
    aside.mkdir()
    package = target / "detectron2"
    moves = [(old, aside / old.name) for old in _metadata_folders(target)]
    moves.append((stage / "new" / _DIST_INFO, target / _DIST_INFO))
    if os.path.lexists(package):
        moves.append((package, aside / package.name))
    moves.append((stage / "new" / "detectron2", package))
    done: list[tuple[Path, Path]] = []
    try:
        for source, place in moves:
            source.rename(place)
            done.append((source, place))
    except BaseException:
        for source, place in reversed(done):
            place.rename(source)
        raise


def _metadata_folders(target: Path) -> list[Path]:
    """Return the metadata of every Detectron2 in ``target``, whoever installed it."""
    name = re.compile(r"detectron2(-.*)?\.(dist|egg)-info")
    return [entry for entry in sorted(target.iterdir()) if name.fullmatch(entry.name)]


def _is_ours(target: Path) -> bool:
    """Say whether the Detectron2 in ``target`` was installed by this program."""
    return any(
        (folder / "INSTALLER").is_file() and (folder / "INSTALLER").read_text().strip() == INSTALLER
        for folder in _metadata_folders(target)
    )


def ensure_detectron2(target: Path, wheel: Path | None = None, force: bool = False) -> str:
    """Install Detectron2 into ``target`` unless there is one to keep.

    Args:
        target: the ``site-packages`` folder of the running Python.
        wheel: the verified wheel; ``None`` downloads it.
        force: install, whatever is there.

    Returns:
        One line that says what was done.

    Raises:
        InstallError: it could not be installed; what was there before still is.
    """
    found = find_detectron2()
    place = target / "detectron2"
    if found.state == "absent" and os.path.lexists(place):
        found = Found("broken", place, error="it has no __init__.py")
    if not force:
        if found.state == "works":
            return f"kept Detectron2 {found.version} at {found.folder}"
        if found.state == "blocked":
            return (
                f"kept Detectron2 {found.version} at {found.folder}; what it needs does not import "
                f"yet ({found.error}): see python -m instseg_d2.check_env"
            )
        if found.state == "broken" and not (found.is_at(place) and _is_ours(target)):
            raise InstallError(
                f"there is a Detectron2 at {found.folder} that does not import ({found.error}), "
                "and this program did not install it.\nRepair it, remove it with: pip uninstall "
                "detectron2, or replace it by running this program with --force."
            )
    with tempfile.TemporaryDirectory() as folder:
        files = read_wheel(wheel or fetch_wheel(Path(folder)))
    install_files(files, target)
    return _check_installed(place)


def _check_installed(place: Path) -> str:
    """Look at the new Detectron2 as a user's program will, and say what was installed."""
    found = find_detectron2()
    if not found.is_at(place):
        raise InstallError(
            f"Detectron2 was installed at {place}, but Python finds {found.folder or 'none'} "
            "instead.\nRemove that one (pip uninstall detectron2, or take it off PYTHONPATH)."
        )
    if found.state == "broken":
        raise InstallError(
            f"Detectron2 was installed at {place}, but does not import: {found.error}\n"
            "Run python -m instseg_d2.check_env for what is wrong with the environment."
        )
    return f"installed Detectron2 {VERSION} at {place}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code: 0, or 1 if Detectron2 is not there afterwards."""
    parser = argparse.ArgumentParser(
        prog="python -m instseg_d2.install_detectron2",
        description="Install Detectron2 0.6 (Python code only), unless one that imports is there.",
    )
    parser.add_argument("--force", action="store_true", help="replace the one that is there")
    parser.add_argument(
        "--wheel", type=Path, help=f"the wheel of {REQUIREMENT}, where there is no network"
    )
    options = parser.parse_args(arguments)
    target = Path(sysconfig.get_paths()["purelib"])
    try:
        print(ensure_detectron2(target, options.wheel, options.force))
    except InstallError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted. Nothing is half-installed; run it again.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
