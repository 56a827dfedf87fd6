"""What is installed, and by which commands: setup.py, constraints.txt and the Makefile."""

import os
import re
import runpy
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import setuptools

import instseg_d2
from instseg_d2.env_problems import NEWEST_PYTHON, OLDEST_PYTHON, REQUIRED, TRIED_PAIR

REPO = Path(__file__).resolve().parents[1]
PACKAGES = ("instseg_d2", "sparseinst_d2", "sharpmask_d2")
needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")

BLOCK_TORCH = """
import runpy, sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "numpy", "detectron2", "instseg_d2"):
            sys.exit(f"setup.py imports {name}")
sys.meta_path.insert(0, Block())
sys.argv = ["setup.py", "--name", "--version"]
runpy.run_path("setup.py", run_name="__main__")
"""


@pytest.fixture
def keywords(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What setup.py calls ``setup`` with."""
    received: dict[str, Any] = {}
    monkeypatch.setattr(setuptools, "setup", lambda **given: received.update(given))
    monkeypatch.chdir(REPO)
    runpy.run_path("setup.py")
    return received


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A checkout with the packaging files, the packages and two configs."""
    folder = tmp_path / "tree"
    folder.mkdir()
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE", "constraints.txt"):
        shutil.copy(REPO / name, folder)
    for package in PACKAGES:
        (folder / package).mkdir()
        (folder / package / "__init__.py").touch()
    shutil.copy(REPO / "instseg_d2" / "__init__.py", folder / "instseg_d2")
    for path in ("configs/Base.yaml", "configs/quickstart/deep/small.yaml", "configs/notes.txt"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    return folder


def requirement_name(requirement: str) -> str:
    return re.split(r"[<>=!~; \[]", requirement, maxsplit=1)[0]


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins() -> list[str]:
    lines = (REPO / "constraints.txt").read_text().splitlines()
    return [line.split("#")[0].strip() for line in lines if line.split("#")[0].strip()]


def test_setup_imports_neither_torch_nor_the_packages():
    done = subprocess.run(
        [sys.executable, "-c", BLOCK_TORCH], cwd=REPO, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["instseg-d2", instseg_d2.__version__]


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, instseg_d2; print(*{'torch', 'numpy', 'detectron2'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "")


def test_packages(keywords: dict[str, Any]):
    assert {name.split(".")[0] for name in keywords["packages"]} <= set(PACKAGES)
    for package in PACKAGES:
        for init in (REPO / package).rglob("__init__.py"):
            assert ".".join(init.parent.relative_to(REPO).parts) in keywords["packages"]


def test_every_folder_with_code_is_a_package():
    for package in PACKAGES:
        for module in (REPO / package).rglob("*.py"):
            assert (module.parent / "__init__.py").is_file(), f"{module} would not be installed"


def test_check_env_looks_at_what_is_required(keywords: dict[str, Any]):
    required = {requirement_name(requirement) for requirement in keywords["install_requires"]}
    assert "detectron2" not in required
    assert required | {"detectron2"} == set(REQUIRED)


def test_pins_are_exact_and_cover_every_requirement(keywords: dict[str, Any]):
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+( ; python_version .*)?", pin) for pin in pins())
    pinned = {normalised(requirement_name(pin)) for pin in pins()}
    extras = keywords["extras_require"]
    for requirement in [*keywords["install_requires"], *extras["dev"], *extras["export"]]:
        assert normalised(requirement_name(requirement)) in pinned
    assert set(TRIED_PAIR.split()) <= set(pins())


def test_python_versions_agree(keywords: dict[str, Any]):
    oldest, newest = OLDEST_PYTHON[1], NEWEST_PYTHON[1]
    assert keywords["python_requires"] == f">=3.{oldest},<3.{newest + 1}"
    for minor in range(oldest, newest + 1):
        assert f"Programming Language :: Python :: 3.{minor}" in keywords["classifiers"]
    makefile = (REPO / "Makefile").read_text()
    assert f"[:2] < (3, {oldest})" in makefile
    assert f"[:2] > (3, {newest})" in makefile


@pytest.mark.slow
def test_wheel_carries_configs_and_licence(tree: Path, tmp_path: Path):
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "-w", str(tmp_path), str(tree)], check=True)
    [wheel] = tmp_path.glob("*.whl")
    assert wheel.name == f"instseg_d2-{instseg_d2.__version__}-py3-none-any.whl"
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in names if "configs" in name} == {
        "instseg_d2/configs/Base.yaml",
        "instseg_d2/configs/quickstart/deep/small.yaml",
    }
    assert any(re.search(r"dist-info/.*LICENSE$", name) for name in names)
    tops = {name.split("/")[0] for name in names}
    assert {name for name in tops if not name.endswith(".dist-info")} == set(PACKAGES)


@pytest.mark.slow
def test_source_archive_builds_the_same(tree: Path, tmp_path: Path):
    code = (
        "import sys; from setuptools import build_meta; print(build_meta.build_sdist(sys.argv[1]))"
    )
    run = [sys.executable, "-c", code, str(tmp_path)]
    subprocess.run(run, cwd=tree, check=True, capture_output=True)
    [archive] = tmp_path.glob("*.tar.gz")
    shutil.unpack_archive(archive, tmp_path)
    unpacked = tmp_path / archive.name.removesuffix(".tar.gz")
    for name in ("LICENSE", "constraints.txt", "configs/quickstart/deep/small.yaml"):
        assert (unpacked / name).is_file()


@needs_make
class TestMakefile:
    @staticmethod
    def make(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run make on the checkout with a Python that does nothing but the version check."""
        return subprocess.run(
            ["make", "-C", str(REPO), "--no-print-directory", *arguments],
            capture_output=True,
            text=True,
            env={**os.environ, **environment, "MAKEFLAGS": ""},
        )

    @staticmethod
    def python_that_says(version: str, folder: Path, code: str = "pass") -> str:
        path = folder / "python"
        change = f"import sys; sys.version_info = {version}; {code}; exec(sys.argv[1])"
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{change}" "$2"\n')
        path.chmod(0o755)
        return f"PYTHON={path}"

    def test_help_is_the_default_and_names_every_target(self):
        done = self.make()
        assert done.returncode == 0
        for target in ("setup", "demo", "test", "lint", "format", "clean", "help"):
            assert re.search(rf"^{target} ", done.stdout, re.MULTILINE)

    def test_no_python(self, tmp_path: Path):
        done = self.make("setup", "PYTHON=no-such-python", f"VENV={tmp_path / 'venv'}")
        assert done.returncode != 0
        assert "error: there is no 'no-such-python'" in done.stderr

    @pytest.mark.parametrize(
        ("version", "message"),
        [("(3, 9, 1)", "Python 3.9 is too old"), ("(3, 14, 0)", "Python 3.14 is newer")],
    )
    def test_unsupported_python(self, tmp_path: Path, version: str, message: str):
        python = self.python_that_says(version, tmp_path)
        done = self.make("demo", python, f"VENV={tmp_path / 'venv'}")
        assert done.returncode != 0
        assert message in done.stderr
        assert "make setup PYTHON=python3.11" in done.stderr
        assert not (tmp_path / "venv").exists()

    def test_python_without_venv(self, tmp_path: Path):
        code = "sys.modules['ensurepip'] = None"
        python = self.python_that_says("(3, 11, 2)", tmp_path, code)
        done = self.make("setup", python, f"VENV={tmp_path / 'venv'}")
        assert done.returncode != 0
        assert "apt install python3.11-venv" in done.stderr

    def test_set_up_is_skipped_when_up_to_date(self, tmp_path: Path):
        stamp = tmp_path / ".set-up"
        stamp.touch()
        assert "constraints.txt" not in self.make("-n", "setup", f"VENV={tmp_path}").stdout
        os.utime(stamp, (0, 0))
        assert "constraints.txt" in self.make("-n", "setup", f"VENV={tmp_path}").stdout
