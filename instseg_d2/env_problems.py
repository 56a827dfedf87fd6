"""Judge an environment: from versions and import errors to problems, each with what mends it.

Every function takes plain values and looks at nothing; :mod:`instseg_d2.check_env` looks.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

OLDEST_PYTHON, NEWEST_PYTHON = (3, 10), (3, 13)
TRIED_PAIR = "torch==2.11.0 torchvision==0.26.0"

# Distribution and what to import of it. A package stands after those that it imports, so that a
# failure is reported where it starts.
REQUIRED = {
    "numpy": "numpy",
    "torch": "torch",
    "torchvision": "torchvision",
    "opencv-python": "cv2",
    "scipy": "scipy.optimize",
    "Pillow": "PIL.Image",
    "matplotlib": "matplotlib",
    "pycocotools": "pycocotools.mask",
    "faster-coco-eval": "faster_coco_eval",
    "setuptools": "pkg_resources",
    "packaging": "packaging",
    "tabulate": "tabulate",
    "termcolor": "termcolor",
    "cloudpickle": "cloudpickle",
    "tqdm": "tqdm",
    "markupsafe": "markupsafe",
    "shapely": "shapely",
    "safetensors": "safetensors.torch",
    "timm": "timm",
    "yacs": "yacs.config",
    "omegaconf": "omegaconf",
    "hydra-core": "hydra",
    "iopath": "iopath",
    "fvcore": "fvcore",
    "tensorboard": "tensorboard",
    "detectron2": "detectron2",
}

# Whose import fails when another of these fails: only the cause is reported.
_NEEDS = {
    "torchvision": {"numpy", "torch"},
    "opencv-python": {"numpy"},
    "scipy": {"numpy"},
    "matplotlib": {"numpy"},
    "pycocotools": {"numpy"},
    "faster-coco-eval": {"numpy"},
    "shapely": {"numpy"},
    "safetensors": {"torch"},
    "timm": {"torch", "torchvision", "safetensors"},
    "detectron2": {"numpy", "torch", "opencv-python"},
}

_PIP = f"{shlex.quote(sys.executable)} -m pip"
_NEW_TORCH = f"{_PIP} uninstall -y torch torchvision && {_PIP} install {TRIED_PAIR}"
_INSTALL_DETECTRON2 = f"{shlex.quote(sys.executable)} -m instseg_d2.install_detectron2"


@dataclass(frozen=True)
class Problem:
    """Something wrong with the environment.

    Attributes:
        title: what is wrong, in one line.
        fix: the command that mends it, or what to do where no command can.
        fatal: whether training and inference cannot run.
    """

    title: str
    fix: str
    fatal: bool = True


@dataclass(frozen=True)
class Package:
    """A package as it was found.

    Attributes:
        version: ``None`` if the package is not installed.
        error: type and message of what importing it raised; ``None`` if it imports.
        folder: where it is imported from.
    """

    version: str | None = None
    error: str | None = None
    folder: str | None = None

    @property
    def absent(self) -> bool:
        """Whether there is nothing of the package."""
        return self.version is None and self.error is None


@dataclass(frozen=True)
class Environment:
    """Everything that is judged.

    Attributes:
        python: (major, minor).
        packages: by distribution name, those of ``REQUIRED``.
        torch_cuda: CUDA version that torch was built for; ``None`` for a CPU build.
        torchvision_cuda: the same for torchvision, where it says so.
        torchvision_needs: the torch that torchvision's metadata asks for, such as ``==2.11.0``.
        cuda_available: whether torch sees a CUDA device.
        driver: ``nvidia-smi``'s lines, one for each GPU: name, memory, driver version.
        visible: the environment variable ``CUDA_VISIBLE_DEVICES``; ``None`` if it is not set.
    """

    python: tuple[int, int]
    packages: Mapping[str, Package] = field(default_factory=dict)
    torch_cuda: str | None = None
    torchvision_cuda: str | None = None
    torchvision_needs: str | None = None
    cuda_available: bool = False
    driver: tuple[str, ...] = ()
    visible: str | None = None


def find_problems(found: Environment) -> list[Problem]:
    """Return all problems of an environment, the most basic first."""
    packages = found.packages
    problems = python_problems(found.python)
    torch, torchvision = packages.get("torch", Package()), packages.get("torchvision", Package())
    pair = torch_pair_problems(torch, torchvision, found.torchvision_needs)
    pair = pair or torch_build_problems(
        torch,
        torchvision,
        build_tag(torch.version, found.torch_cuda, "cpu"),
        build_tag(torchvision.version, found.torchvision_cuda, None),
        found.cuda_available,
    )
    explained = {"torchvision"} if pair else set()
    problems += pair + package_problems(packages, explained)
    problems += detectron2_problems(packages.get("detectron2", Package()))
    if torch.version is not None and torch.error is None:
        problems += gpu_problems(
            found.driver, found.cuda_available, found.torch_cuda, found.visible
        )
    return problems


def python_problems(version: tuple[int, int]) -> list[Problem]:
    """Judge the version (major, minor) of Python."""
    if OLDEST_PYTHON <= version <= NEWEST_PYTHON:
        return []
    return [
        Problem(
            f"Python {version[0]}.{version[1]} is not supported: 3.10 to 3.13 are",
            "install Python 3.11, then: make distclean && make setup PYTHON=python3.11",
        )
    ]


def package_problems(
    packages: Mapping[str, Package], explained: Iterable[str] = ()
) -> list[Problem]:
    """Judge whether packages are there and import.

    Args:
        packages: by distribution name, in the order of ``REQUIRED``.
        explained: packages whose import error another problem stands for.

    Returns:
        One problem for each cause: what fails for want of a package that fails itself is left out.
    """
    absent = [name for name, package in packages.items() if package.absent]
    modules = {REQUIRED[name].split(".")[0] for name in absent}
    problems = _absent_problems(absent)
    bad = set(absent)
    for name, package in packages.items():
        if package.error is None:
            continue
        consequence = _missing_module(package.error) in modules or _NEEDS.get(name, set()) & bad
        bad.add(name)
        if name not in explained and not consequence:
            problems.append(_import_problem(name, package))
    return problems


def _absent_problems(absent: list[str]) -> list[Problem]:
    """Return one problem for all absent packages that one command brings."""
    groups = [
        [name for name in absent if name in ("torch", "torchvision")],
        [name for name in absent if name not in ("torch", "torchvision", "detectron2")],
        [name for name in absent if name == "detectron2"],
    ]
    return [
        Problem(f"not installed: {', '.join(names)}", _install_command(*names))
        for names in groups
        if names
    ]


def _missing_module(error: str) -> str | None:
    """Return the top-level package that a ModuleNotFoundError says is missing."""
    found = re.match(r"ModuleNotFoundError: No module named '([^'.]+)", error)
    return found[1] if found else None


def _install_command(*names: str) -> str:
    """Return the command that installs packages of one group."""
    if "detectron2" in names:
        return _INSTALL_DETECTRON2
    if "torch" in names or "torchvision" in names:
        return f"{_PIP} install {TRIED_PAIR}"
    wanted = ["setuptools<82" if name == "setuptools" else name for name in names]
    return f"{_PIP} install {shlex.join(wanted)}"


def _import_problem(name: str, package: Package) -> Problem:
    title = f"{name} {package.version} does not import: {package.error}"
    if name == "opencv-python" and re.search(r"lib(GL|gthread|glib|X11|xcb|SM|ICE)", title):
        return Problem(
            f"{title} (a library for windows on a display)",
            f"{_PIP} uninstall -y opencv-python && "
            f"{_PIP} install --force-reinstall --no-deps opencv-python-headless",
        )
    if name == "setuptools":
        return Problem(
            f"setuptools {package.version} has no pkg_resources, which detectron2.model_zoo needs",
            _install_command(name),
        )
    if name == "detectron2":
        return Problem(title, f"{_INSTALL_DETECTRON2} --force")
    if name in ("torch", "torchvision"):
        return Problem(title, _NEW_TORCH)
    if _missing_module(package.error or "") not in (None, REQUIRED[name].split(".")[0]):
        return Problem(title, _install_command(name))  # pip adds what an installed package needs
    return Problem(title, f"{_PIP} install --force-reinstall --no-deps {name}")


def detectron2_problems(package: Package) -> list[Problem]:
    """Judge the version of a Detectron2 that imports."""
    version = _release(package.version)
    if package.error is not None or version is None or version >= (0, 6):
        return []
    return [
        Problem(
            f"detectron2 {package.version} is older than 0.6, with which this project is tried",
            f"{_INSTALL_DETECTRON2} --force",
            fatal=False,
        )
    ]


def torch_pair_problems(
    torch: Package, torchvision: Package, torchvision_needs: str | None
) -> list[Problem]:
    """Judge whether torch and torchvision are of one release.

    torch 2.N goes with torchvision 0.(N + 15), up to torchvision 0.29.0. Later ones work with more
    than one torch and say in their metadata with which, so the metadata comes first.
    """
    have, vision = _release(torch.version), _release(torchvision.version)
    if have is None or vision is None:
        return []
    operator, needed = _needed_release(torchvision_needs)
    if needed is None:
        operator, needed = "==", (2, vision[1] - 15)
    if have == needed or (operator == ">=" and have > needed):
        return []
    wanted = ("" if operator == "==" else "at least ") + f"{needed[0]}.{needed[1]}"
    return [
        Problem(
            f"torch {torch.version} and torchvision {torchvision.version} are not of one release: "
            f"this torchvision needs torch {wanted}",
            _NEW_TORCH,
            fatal=torchvision.error is not None,
        )
    ]


def _release(version: str | None) -> tuple[int, int] | None:
    found = re.match(r"(\d+)\.(\d+)", version or "")
    return (int(found[1]), int(found[2])) if found else None


def _needed_release(specifier: str | None) -> tuple[str, tuple[int, int] | None]:
    found = re.search(r"(==|>=)\s*(\d+\.\d+)", specifier or "")
    return (found[1], _release(found[2])) if found else ("", None)


def build_tag(version: str | None, cuda: str | None, otherwise: str | None) -> str | None:
    """Return the kind of a build: ``cpu``, ``cu`` with CUDA's major version, or ``rocm``.

    Args:
        version: such as ``2.11.0+cu130`` or, where the build is not named, ``2.11.0``.
        cuda: the CUDA version that the package says it was built for, such as ``13.0``.
        otherwise: what a build is that names neither; ``None`` for unknown.
    """
    local = re.search(r"\+(cpu|cu\d+|rocm)", version or "")
    if local:
        # cu92 is CUDA 9.2, cu118 is 11.8, cu130 is 13.0: the last digit is the minor version.
        return local[1][:-1] if local[1].startswith("cu") else local[1]
    if cuda:
        return f"cu{cuda.split('.')[0]}"
    return otherwise if version else None


def torch_build_problems(
    torch: Package,
    torchvision: Package,
    torch_tag: str | None,
    torchvision_tag: str | None,
    cuda_available: bool,
) -> list[Problem]:
    """Judge whether torch and torchvision are both built for CPUs, or both for one CUDA.

    Where both import and no device is used, a difference does no harm: then it is a warning.
    """
    if torch.error is not None or None in (torch.version, torchvision.version):
        return []
    error = torchvision.error or ""
    unregistered = re.search(r"operator torchvision::\w+ does not exist", error)
    if not unregistered and (None in (torch_tag, torchvision_tag) or torch_tag == torchvision_tag):
        return []
    builds = f"torch {torch.version} ({torch_tag or 'unknown build'}) and torchvision "
    builds += f"{torchvision.version} ({torchvision_tag or 'unknown build'})"
    reason = f": {unregistered[0]}" if unregistered else ""
    return [
        Problem(
            f"{builds} are not built for each other{reason}",
            _NEW_TORCH,
            fatal=bool(error) or cuda_available,
        )
    ]


def gpu_problems(
    driver: tuple[str, ...], cuda_available: bool, torch_cuda: str | None, visible: str | None
) -> list[Problem]:
    """Judge why a GPU of the machine is not used. Never fatal: the CPU works.

    Args:
        driver: ``nvidia-smi``'s lines, one for each GPU.
        cuda_available: whether torch sees a CUDA device.
        torch_cuda: CUDA version that torch was built for.
        visible: the environment variable ``CUDA_VISIBLE_DEVICES``; ``None`` if it is not set.
    """
    if not driver or cuda_available:
        return []
    title = f"torch does not see the GPU ({driver[0]})"
    if visible is not None and visible.strip() in ("", "-1"):
        fix = "unset CUDA_VISIBLE_DEVICES"
        return [Problem(f"{title}: CUDA_VISIBLE_DEVICES hides it", fix, fatal=False)]
    if torch_cuda is None:
        return [Problem(f"{title}: this torch is built for CPUs only", _NEW_TORCH, fatal=False)]
    return [
        Problem(
            f"{title}: torch is built for CUDA {torch_cuda}, for which the driver may be too old",
            "update the NVIDIA driver, or install a torch and torchvision built for the CUDA "
            "version that nvidia-smi prints",
            fatal=False,
        )
    ]
