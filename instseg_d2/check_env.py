"""Look at the environment and say how to mend it: ``python -m instseg_d2.check_env``.

Prints a table of what is installed and, for every problem, the command that mends it. The exit
code is 0 if training and inference can run, warnings or not, and 1 otherwise. It also runs where
torch is absent or broken: each import is guarded, and one that fails does not hide the others.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

from instseg_d2.env_problems import REQUIRED, Environment, Package, Problem, find_problems

_SHOWN = ("numpy", "opencv-python", "pycocotools", "scipy", "fvcore")
_OPTIONAL = ("timm", "onnx", "onnxruntime")

# One module, several distributions.
_ALSO_NAMED = {
    "opencv-python": (
        "opencv-python-headless",
        "opencv-contrib-python",
        "opencv-contrib-python-headless",
    )
}


def inspect_environment() -> Environment:
    """Import everything that is required, one by one, and look for GPUs."""
    packages = {name: inspect_package(name, module) for name, module in REQUIRED.items()}
    torch, torchvision = _imported("torch", packages), _imported("torchvision", packages)
    return Environment(
        python=sys.version_info[:2],
        packages=packages,
        torch_cuda=torch.version.cuda if torch else None,
        torchvision_cuda=getattr(torchvision.version, "cuda", None) if torchvision else None,
        torchvision_needs=_requirement("torchvision", "torch"),
        cuda_available=bool(torch and _cuda_devices(torch)),
        driver=_driver_lines(),
        visible=os.environ.get("CUDA_VISIBLE_DEVICES"),
    )


def inspect_package(name: str, module: str) -> Package:
    """Import ``module`` of the distribution ``name`` and say what came of it."""
    top = module.split(".")[0]
    error = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(module)
    except Exception as raised:  # a damaged package raises anything; the others are still looked at
        first_line = str(raised).strip().split("\n")[0]
        error = f"{type(raised).__name__}: {first_line}"
    version = getattr(sys.modules.get(top), "__version__", None) if error is None else None
    version = version or _version_on_disk(top) or _installed_version(name)
    folder = _folder(top)
    if folder is None and version is None:
        return Package()
    return Package(version or "of unknown version", error, folder)


def _folder(top: str) -> str | None:
    """Return the folder of a top-level package without importing it."""
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    return os.path.dirname(spec.origin) if spec and spec.origin else None


def _version_on_disk(top: str) -> str | None:
    """Return what ``version.py`` says: torch and torchvision name their build only there."""
    folder = _folder(top)
    path = Path(folder, "version.py") if folder else None
    if path is None or not path.is_file():
        return None
    found = re.search(r"^__version__ = ['\"](.+)['\"]", path.read_text("utf-8"), re.MULTILINE)
    return found[1] if found else None


def _installed_version(name: str) -> str | None:
    """Return the version that a distribution's metadata says; ``None`` if there is none."""
    for candidate in (name, *_ALSO_NAMED.get(name, ())):
        try:
            return importlib.metadata.version(candidate)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _requirement(name: str, wanted: str) -> str | None:
    """Return the version specifier with which a distribution requires another one."""
    try:
        requirements = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    for requirement in requirements:
        found = re.match(rf"{wanted}\s*\(?([=<>!~][^);]*)", requirement)
        if found:
            return found[1].strip()
    return None


def _imported(name: str, packages: dict[str, Package]) -> Any:
    package = packages[name]
    return None if package.absent or package.error else sys.modules[name]


def _cuda_devices(torch: Any) -> list[str]:
    """Return one line for each CUDA device: index, name, memory and compute capability."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the driver: `find_problems` says it
        if not torch.cuda.is_available():
            return []
        devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [
        f"{i}: {device.name}, {device.total_memory / 2**30:.1f} GiB, "
        f"compute capability {device.major}.{device.minor}"
        for i, device in enumerate(devices)
    ]


def _driver_lines() -> tuple[str, ...]:
    """Return ``name, memory, driver version`` of each GPU, as nvidia-smi prints them."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    query = [program, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(line.strip() for line in done.stdout.splitlines() if line.strip())


def table(found: Environment) -> list[tuple[str, str]]:
    """Return the rows of the table: what it is, and what was found."""
    torch = _imported("torch", dict(found.packages))
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    rows = [
        ("Python", f"{platform.python_version()} ({sys.executable})"),
        ("platform", platform.platform()),
        ("CPUs", str(cpus)),
        ("torch", _described(found.packages["torch"])),
        ("torchvision", _described(found.packages["torchvision"])),
    ]
    rows += [("NVIDIA GPU", line) for line in found.driver] or [("NVIDIA GPU", "none")]
    rows += [("CUDA device", line) for line in (_cuda_devices(torch) if torch else [])]
    rows.append(("detectron2", _detectron2_described(found.packages["detectron2"])))
    rows += [(name, _described(found.packages[name])) for name in _SHOWN]
    rows += [(name, _installed_version(name) or "absent (optional)") for name in _OPTIONAL]
    return rows


def _described(package: Package) -> str:
    if package.absent:
        return "absent"
    return f"{package.version}, does not import" if package.error else str(package.version)


def _detectron2_described(package: Package) -> str:
    described = _described(package)
    if package.absent or package.error:
        return described
    compiled = importlib.util.find_spec("detectron2._C") is not None
    ops = "with compiled ops" if compiled else "without compiled ops (none is needed)"
    return f"{described} {ops} at {package.folder}"


def report(found: Environment, problems: list[Problem]) -> str:
    """Return what the program prints."""
    rows = table(found)
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {value}" for name, value in rows]
    for problem in sorted(problems, key=lambda problem: not problem.fatal):
        kind = "PROBLEM" if problem.fatal else "warning"
        lines += ["", f"{kind}: {problem.title}", f"   mend: {problem.fix}"]
    if not problems:
        lines += ["", "No problems found."]
    return "\n".join(lines)


def main() -> int:
    """Run the program and return its exit code."""
    found = inspect_environment()
    problems = find_problems(found)
    print(report(found, problems))
    return 1 if any(problem.fatal for problem in problems) else 0


if __name__ == "__main__":
    sys.exit(main())
