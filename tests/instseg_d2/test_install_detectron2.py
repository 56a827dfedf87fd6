"""The installer on a tiny wheel of the same layout; no network, and its own target folder."""

import base64
import csv
import hashlib
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from instseg_d2 import detectron2_probe, install_detectron2
from instseg_d2.detectron2_probe import find_detectron2
from instseg_d2.install_detectron2 import (
    InstallError,
    ensure_detectron2,
    fetch_wheel,
    install_files,
    main,
    read_wheel,
    tree_digest,
)

UPSTREAM = {
    "__init__.py": b'from .utils import env\n__version__ = "0.6"\n',
    "utils/__init__.py": b"",
    "utils/env.py": b"import detectron2.utils\n",
    "model_zoo/configs/base.yaml": b"VERSION: 2\n",
}
IN_WHEEL = {
    "LabGym/__init__.py": b"",
    "LabGym/detector.py": b"import LabGym.detectron2\n",
    "LabGym/detectron2/__init__.py": UPSTREAM["__init__.py"],
    "LabGym/detectron2/utils/__init__.py": b"",
    "LabGym/detectron2/utils/env.py": b"import LabGym.detectron2.utils\n",
    "LabGym/detectron2/model_zoo/configs/base.yaml": b"VERSION: 2\n",
    "labgym-3.1.2.dist-info/METADATA": b"Metadata-Version: 2.1\nName: LabGym\nVersion: 3.1.2\n",
    "labgym-3.1.2.dist-info/WHEEL": b"Wheel-Version: 1.0\nTag: py3-none-any\n",
    "labgym-3.1.2.dist-info/RECORD": b"",
}
BROKEN = b'raise RuntimeError("broken")\n'


@pytest.fixture
def make_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    def make(files: dict[str, bytes] | None = None) -> Path:
        folder = tmp_path / "index"
        folder.mkdir()
        path = folder / "labgym-3.1.2-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in {**IN_WHEEL, **(files or {})}.items():
                archive.writestr(name, content)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        monkeypatch.setattr(install_detectron2, "WHEEL_SHA256", digest)
        monkeypatch.setattr(install_detectron2, "TREE_SHA256", tree_digest(UPSTREAM))
        return path

    return make


@pytest.fixture
def wheel(make_wheel: Callable[..., Path]) -> Path:
    return make_wheel()


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A site-packages folder, the only one that the installer's other processes see."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    bare = tmp_path / "bare-python"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    bare.chmod(0o755)
    monkeypatch.setattr(detectron2_probe.sys, "executable", str(bare))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setattr(install_detectron2.sysconfig, "get_paths", lambda: {"purelib": str(folder)})
    return folder


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def put_broken(target: Path) -> None:
    (target / "detectron2").mkdir(exist_ok=True)
    (target / "detectron2" / "__init__.py").write_bytes(BROKEN)


class TestDigest:
    def test_is_that_of_sorted_lines(self):
        files = {"b/c.py": b"", "a.py": b"x = 1\n"}
        lines = b"".join(
            name + b"\0" + hashlib.sha256(content).hexdigest().encode() + b"\n"
            for name, content in [(b"a.py", b"x = 1\n"), (b"b/c.py", b"")]
        )
        assert tree_digest(files) == hashlib.sha256(lines).hexdigest()

    def test_sees_names_and_contents(self):
        digests = {
            tree_digest(files) for files in ({}, {"a": b""}, {"b": b""}, {"a": b"1"}, {"a1": b""})
        }
        assert len(digests) == 5


class TestReadWheel:
    def test_restores_upstream(self, wheel: Path):
        assert read_wheel(wheel) == UPSTREAM

    def test_other_wheel(self, wheel: Path):
        wheel.write_bytes(wheel.read_bytes() + b"\n")
        with pytest.raises(InstallError, match=r"not the verified wheel.*sha256"):
            read_wheel(wheel)

    def test_other_tree(self, make_wheel: Callable[..., Path]):
        wheel = make_wheel({"LabGym/detectron2/utils/env.py": b"import os\n"})
        with pytest.raises(InstallError, match="not those of upstream"):
            read_wheel(wheel)

    def test_absent(self, tmp_path: Path):
        with pytest.raises(InstallError, match=r"nowhere\.whl: No such file"):
            read_wheel(tmp_path / "nowhere.whl")

    @pytest.mark.parametrize("name", ["../evil.py", "a/../../evil.py", "/evil.py", "c:\\evil.py"])
    def test_unsafe_name(self, make_wheel: Callable[..., Path], name: str):
        wheel = make_wheel({f"LabGym/detectron2/{name}": b""})
        with pytest.raises(InstallError, match="unsafe name"):
            read_wheel(wheel)

    def test_symbolic_link(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        link = zipfile.ZipInfo("LabGym/detectron2/link")
        link.external_attr = 0o120777 << 16
        wheel = tmp_path / "link.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(link, "/etc/passwd")
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        monkeypatch.setattr(install_detectron2, "WHEEL_SHA256", digest)
        with pytest.raises(InstallError, match="unsafe name"):
            read_wheel(wheel)


class TestFetch:
    def test_pip_brings_the_wheel(
        self, wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
        fetched = fetch_wheel(tmp_path)
        assert fetched.parent == tmp_path
        assert fetched.read_bytes() == wheel.read_bytes()

    def test_no_network(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
        with pytest.raises(InstallError, match=r"cannot download LabGym==3.1.2: ERROR") as raised:
            fetch_wheel(tmp_path)
        assert "--wheel" in str(raised.value)
        assert "git+https://github.com/facebookresearch/detectron2" in str(raised.value)

    def test_no_pip(self, target: Path, tmp_path: Path):
        with pytest.raises(InstallError, match="-m ensurepip"):
            fetch_wheel(tmp_path)


class TestProbe:
    def test_absent(self, target: Path):
        assert find_detectron2().state == "absent"

    def test_folder_without_init_is_absent(self, target: Path):
        (target / "detectron2").mkdir()
        assert find_detectron2().state == "absent"

    @pytest.mark.parametrize(
        ("code", "state"),
        [
            (b"", "works"),
            (b"import torch\n", "blocked"),
            (b"import other\n", "blocked"),
            (b"import detectron2.nothing\n", "broken"),
            (b"from json import nothing\n", "broken"),
            (b"def\n", "broken"),
            (BROKEN, "broken"),
            (b"import os; os._exit(0)\n", "broken"),
        ],
    )
    def test_states(self, target: Path, code: bytes, state: str):
        (target / "other.py").write_text("import json\njson.loads('')\n")
        (target / "detectron2").mkdir()
        (target / "detectron2" / "__init__.py").write_bytes(b'__version__ = "0.5"\n' + code)
        found = find_detectron2()
        assert found.state == state
        assert found.is_at(target / "detectron2")
        assert found.version == "0.5"
        assert (found.error is None) == (state == "works")


class TestInstall:
    def test_success(self, target: Path, wheel: Path):
        message = ensure_detectron2(target, wheel)
        assert message.startswith("installed Detectron2 0.6")
        assert find_detectron2().state == "works"
        installed = snapshot(target / "detectron2")
        assert {name: content for name, (content, _) in installed.items()} == UPSTREAM
        assert sorted(path.name for path in target.iterdir()) == [
            "detectron2",
            "detectron2-0.6+864913f0.dist-info",
        ]

    def test_fetches_by_itself(self, target: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(install_detectron2, "fetch_wheel", lambda folder: wheel)
        assert ensure_detectron2(target).startswith("installed")

    def test_record_lists_every_file(self, target: Path, wheel: Path):
        ensure_detectron2(target, wheel)
        record = target / "detectron2-0.6+864913f0.dist-info" / "RECORD"
        rows = {row[0]: row[1:] for row in csv.reader(record.read_text().splitlines())}
        files = snapshot(target)
        assert set(rows) == set(files)
        assert rows.pop(str(record.relative_to(target))) == ["", ""]
        for name, (digest, size) in rows.items():
            content = files[name][0]
            expected = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode()
            assert digest == "sha256=" + expected.rstrip("=")
            assert int(size) == len(content)

    def test_twice_changes_nothing(self, target: Path, wheel: Path, capsys: pytest.CaptureFixture):
        assert main(["--wheel", str(wheel)]) == 0
        before = snapshot(target)
        assert main(["--wheel", str(wheel)]) == 0
        assert snapshot(target) == before
        assert "kept Detectron2 0.6" in capsys.readouterr().out

    def test_force_replaces(self, target: Path, wheel: Path):
        ensure_detectron2(target, wheel)
        (target / "detectron2" / "extra.py").touch()
        older = target / "detectron2-0.5.dist-info"
        older.mkdir()
        assert ensure_detectron2(target, wheel, force=True).startswith("installed")
        assert not (target / "detectron2" / "extra.py").exists()
        assert not older.exists()

    def test_keeps_one_that_waits_for_torch(self, target: Path, wheel: Path):
        (target / "detectron2").mkdir()
        (target / "detectron2" / "__init__.py").write_text("import torch\n")
        before = snapshot(target)
        assert "kept" in ensure_detectron2(target, wheel)
        assert snapshot(target) == before

    def test_keeps_one_elsewhere(
        self, target: Path, wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        (tmp_path / "first" / "detectron2").mkdir(parents=True)
        (tmp_path / "first" / "detectron2" / "__init__.py").touch()
        monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'first'}{os.pathsep}{target}")
        assert "kept" in ensure_detectron2(target, wheel)
        assert snapshot(target) == {}
        with pytest.raises(InstallError, match=r"but Python finds .*first.*instead"):
            ensure_detectron2(target, wheel, force=True)

    def test_replaces_its_own_when_broken(self, target: Path, wheel: Path):
        ensure_detectron2(target, wheel)
        put_broken(target)
        assert ensure_detectron2(target, wheel).startswith("installed")

    def test_refuses_to_replace_another_that_is_broken(self, target: Path, wheel: Path):
        put_broken(target)
        before = snapshot(target)
        with pytest.raises(InstallError, match=r"does not import.*\n.*--force"):
            ensure_detectron2(target, wheel)
        assert snapshot(target) == before
        assert ensure_detectron2(target, wheel, force=True).startswith("installed")

    def test_refuses_to_replace_a_folder_that_is_no_package(self, target: Path, wheel: Path):
        (target / "detectron2").mkdir()
        (target / "detectron2" / "notes.txt").write_text("mine")
        with pytest.raises(InstallError, match=r"no __init__\.py"):
            ensure_detectron2(target, wheel)

    def test_removes_what_a_killed_run_left(self, target: Path, wheel: Path):
        (target / ".detectron2-staging-dead" / "new").mkdir(parents=True)
        ensure_detectron2(target, wheel)
        assert not list(target.glob(".detectron2-staging-*"))

    def test_pip_shows_checks_and_uninstalls_it(self, wheel: Path, tmp_path: Path):
        environment = tmp_path / "env"
        run = [sys.executable, "-m", "venv", "--without-pip", str(environment)]
        subprocess.run(run, check=True)
        python = str(environment / "bin" / "python")
        query = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
        site = Path(subprocess.check_output([python, "-c", query], text=True).strip())
        install_files(read_wheel(wheel), site)

        def pip(*arguments: str) -> str:
            command = [sys.executable, "-m", "pip", "--python", python, *arguments]
            return subprocess.run(command, capture_output=True, text=True).stdout

        subprocess.run([python, "-c", "import detectron2"], check=True)  # leaves byte code
        shown = pip("show", "detectron2")
        assert "Version: 0.6+864913f0" in shown
        assert "License: Apache-2.0" in shown
        assert "fvcore" in shown
        assert "detectron2 0.6+864913f0 requires fvcore, which is not installed" in pip("check")
        assert "Successfully uninstalled detectron2" in pip("uninstall", "-y", "detectron2")
        assert list(site.iterdir()) == []


class TestFailuresLeaveNothing:
    def test_wrong_wheel(self, target: Path, wheel: Path, capsys: pytest.CaptureFixture):
        wheel.write_bytes(b"not a wheel")
        assert main(["--wheel", str(wheel)]) == 1
        assert "error: " in capsys.readouterr().err
        assert list(target.iterdir()) == []

    def test_unwritable_target(self, tmp_path: Path):
        with pytest.raises(InstallError, match=r"cannot install into .*No such file.*\n.*venv"):
            install_files(UPSTREAM, tmp_path / "absent")

    @pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left")])
    @pytest.mark.parametrize("renames", range(4))
    def test_interrupted_swap_restores_the_old_one(
        self,
        target: Path,
        wheel: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture,
        renames: int,
        error: BaseException,
    ):
        """Old metadata out, new in, old package out, new in: fail at each of the four."""
        ensure_detectron2(target, wheel)
        (target / "detectron2" / "extra.py").touch()
        before = snapshot(target)
        rename, left = Path.rename, [renames]

        def failing(self: Path, place: Path) -> Path:
            if left[0] == 0:
                left[0] = -1
                raise error
            left[0] -= 1
            return rename(self, place)

        monkeypatch.setattr(Path, "rename", failing)
        assert main(["--force", "--wheel", str(wheel)]) == 1
        assert left[0] < 0
        assert snapshot(target) == before
        assert not list(target.glob(".*"))
        assert capsys.readouterr().err.startswith("error: ")

    def test_interrupted_while_it_writes(
        self, target: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch
    ):
        def full(self: Path, content: bytes) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "write_bytes", full)
        with pytest.raises(InstallError, match="No space left"):
            ensure_detectron2(target, wheel)
        assert list(target.iterdir()) == []
