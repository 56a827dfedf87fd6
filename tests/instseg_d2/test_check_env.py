"""The judgements of the environment check, from versions and errors to what mends them."""

import sys
from pathlib import Path

import pytest

from instseg_d2 import check_env
from instseg_d2.check_env import inspect_package, main, report
from instseg_d2.env_problems import (
    REQUIRED,
    Environment,
    Package,
    build_tag,
    detectron2_problems,
    find_problems,
    gpu_problems,
    package_problems,
    python_problems,
    torch_build_problems,
    torch_pair_problems,
)

NO_NMS = "RuntimeError: operator torchvision::nms does not exist"
GPU = ("NVIDIA H200, 143771 MiB, 580.95.05",)


def sound(**changes: Package) -> dict[str, Package]:
    """All required packages, in their order, some of them changed (``_`` stands for ``-``)."""
    packages = {name: Package("1.0") for name in REQUIRED}
    packages["torch"] = Package("2.11.0+cu130")
    packages["torchvision"] = Package("0.26.0+cu130")
    packages["detectron2"] = Package("0.6")
    return {**packages, **{name.replace("_", "-"): package for name, package in changes.items()}}


class TestPython:
    @pytest.mark.parametrize("version", [(3, 10), (3, 11), (3, 12), (3, 13)])
    def test_supported(self, version: tuple[int, int]):
        assert python_problems(version) == []

    @pytest.mark.parametrize("version", [(2, 7), (3, 9), (3, 14), (4, 0)])
    def test_unsupported(self, version: tuple[int, int]):
        [problem] = python_problems(version)
        assert problem.fatal
        assert f"{version[0]}.{version[1]}" in problem.title
        assert "PYTHON=python3.11" in problem.fix


class TestPair:
    @pytest.mark.parametrize(
        ("torch", "torchvision", "needs"),
        [
            ("2.11.0+cu130", "0.26.0+cu130", "==2.11.0"),
            ("2.11.0", "0.26.0", None),
            ("2.4.1+cpu", "0.19.1+cpu", None),
            ("2.11.1", "0.26.0", "==2.11.0"),  # bug-fix releases keep the interface
            ("2.15.0", "0.29.2", ">=2.14.0"),
            ("2.14.0", "0.29.2", ">=2.14.0"),
        ],
    )
    def test_match(self, torch: str, torchvision: str, needs: str | None):
        assert torch_pair_problems(Package(torch), Package(torchvision), needs) == []

    @pytest.mark.parametrize(
        ("torch", "torchvision", "needs", "wanted"),
        [
            ("2.11.0", "0.25.0", None, "torch 2.10"),
            ("2.10.0", "0.26.0", "==2.11.0", "torch 2.11"),
            ("1.13.1", "0.26.0", "==2.11.0", "torch 2.11"),
            ("2.13.0+cpu", "0.29.2", ">=2.14.0", "torch at least 2.14"),
        ],
    )
    def test_mismatch(self, torch: str, torchvision: str, needs: str | None, wanted: str):
        [problem] = torch_pair_problems(Package(torch), Package(torchvision, NO_NMS), needs)
        assert problem.fatal
        assert problem.title.endswith(wanted)
        assert "uninstall -y torch torchvision" in problem.fix
        assert "install torch==2.11.0 torchvision==0.26.0" in problem.fix

    def test_mismatch_that_imports_is_a_warning(self):
        [problem] = torch_pair_problems(Package("2.6.0a0"), Package("0.20.0a0"), None)
        assert not problem.fatal

    def test_absent(self):
        assert torch_pair_problems(Package(), Package("0.26.0"), None) == []
        assert torch_pair_problems(Package("2.11.0"), Package(), None) == []


class TestBuild:
    @pytest.mark.parametrize(
        ("version", "cuda", "tag"),
        [
            ("2.11.0+cu130", "13.0", "cu13"),
            ("2.11.0+cu130", None, "cu13"),
            ("2.6.0+cu118", None, "cu11"),
            ("1.9.0+cu92", None, "cu9"),
            ("2.11.0+cpu", None, "cpu"),
            ("2.11.0+rocm6.2", None, "rocm"),
            ("2.11.0", "12.8", "cu12"),
            ("2.11.0", None, "otherwise"),
            ("2.6.0a0+ecdf98054.nv25.01", "12.8", "cu12"),
            (None, None, None),
        ],
    )
    def test_tag(self, version: str | None, cuda: str | None, tag: str | None):
        assert build_tag(version, cuda, "otherwise") == tag

    @staticmethod
    def problems(torch_tag, torchvision_tag, error=None, cuda_available=False):
        return torch_build_problems(
            Package("2.11.0"), Package("0.26.0", error), torch_tag, torchvision_tag, cuda_available
        )

    def test_same_or_unknown(self):
        assert self.problems("cu13", "cu13") == []
        assert self.problems("cpu", "cpu") == []
        assert self.problems("cpu", None) == []

    def test_different(self):
        [problem] = self.problems("cpu", "cu13", NO_NMS)
        assert problem.fatal
        assert "(cpu)" in problem.title
        assert "(cu13)" in problem.title
        assert "operator torchvision::nms does not exist" in problem.title

    def test_harm_depends_on_use(self):
        assert not self.problems("cu13", "cpu")[0].fatal
        assert self.problems("cu13", "cpu", cuda_available=True)[0].fatal

    def test_missing_operator_is_enough(self):
        [problem] = self.problems("cpu", None, NO_NMS)
        assert problem.fatal

    def test_other_import_error_is_not_the_build(self):
        assert self.problems("cu13", "cu13", "ImportError: no libjpeg") == []


class TestPackages:
    def test_sound(self):
        assert package_problems(sound()) == []

    def test_absent_ones_share_a_command(self):
        problems = package_problems(sound(fvcore=Package(), yacs=Package(), setuptools=Package()))
        assert [problem.title for problem in problems] == [
            "not installed: setuptools, yacs, fvcore"
        ]
        assert problems[0].fix.endswith("-m pip install 'setuptools<82' yacs fvcore")
        assert problems[0].fatal

    def test_torch_is_absent(self):
        error = "ModuleNotFoundError: No module named 'torch'"
        packages = sound(
            torch=Package(),
            torchvision=Package("0.26.0", error),
            detectron2=Package("0.6", error),
            fvcore=Package("0.1.5", error),
        )
        [problem] = package_problems(packages)
        assert problem.title == "not installed: torch"
        assert problem.fix.endswith("-m pip install torch==2.11.0 torchvision==0.26.0")

    def test_detectron2_is_absent(self):
        [problem] = package_problems(sound(detectron2=Package()))
        assert problem.title == "not installed: detectron2"
        assert problem.fix == f"{sys.executable} -m instseg_d2.install_detectron2"

    def test_detectron2_is_broken(self):
        [problem] = package_problems(sound(detectron2=Package("0.6", "ImportError: x")))
        assert "ImportError: x" in problem.title
        assert problem.fix.endswith("-m instseg_d2.install_detectron2 --force")

    def test_no_display_libraries(self):
        """Importing Detectron2 imports cv2: only the cause is reported."""
        error = "ImportError: libGL.so.1: cannot open shared object file: No such file or directory"
        packages = sound(
            opencv_python=Package("5.0.0.93", error),
            detectron2=Package("0.6", "ImportError: recursion is detected"),
        )
        [problem] = package_problems(packages)
        assert "libGL.so.1" in problem.title
        assert "-m pip uninstall -y opencv-python && " in problem.fix
        assert problem.fix.endswith("opencv-python-headless")

    def test_setuptools_without_pkg_resources(self):
        error = "ModuleNotFoundError: No module named 'pkg_resources'"
        [problem] = package_problems(sound(setuptools=Package("84.2.1", error)))
        assert "84.2.1 has no pkg_resources" in problem.title
        assert problem.fix.endswith("-m pip install 'setuptools<82'")

    def test_a_dependency_of_a_dependency(self):
        error = "ModuleNotFoundError: No module named 'antlr4'"
        [problem] = package_problems(sound(hydra_core=Package("1.3.8", error)))
        assert problem.fix.endswith("-m pip install hydra-core")

    def test_broken_files(self):
        [problem] = package_problems(sound(scipy=Package("1.17.1", "ImportError: bad ELF")))
        assert problem.fix.endswith("-m pip install --force-reinstall --no-deps scipy")

    def test_old_detectron2(self):
        assert detectron2_problems(Package("0.6")) == []
        [problem] = detectron2_problems(Package("0.5"))
        assert not problem.fatal
        assert "--force" in problem.fix


class TestGpu:
    def test_none_or_used(self):
        assert gpu_problems((), False, None, None) == []
        assert gpu_problems(GPU, True, "13.0", None) == []

    @pytest.mark.parametrize(
        ("cuda", "visible", "title", "fix"),
        [
            (None, None, "built for CPUs only", "torch==2.11.0"),
            ("13.0", None, "CUDA 13.0", "update the NVIDIA driver"),
            ("13.0", "", "CUDA_VISIBLE_DEVICES hides it", "unset CUDA_VISIBLE_DEVICES"),
            ("13.0", "-1", "CUDA_VISIBLE_DEVICES hides it", "unset CUDA_VISIBLE_DEVICES"),
        ],
    )
    def test_unused(self, cuda: str | None, visible: str | None, title: str, fix: str):
        [problem] = gpu_problems(GPU, False, cuda, visible)
        assert not problem.fatal
        assert title in problem.title
        assert fix in problem.fix


class TestFindProblems:
    def test_sound(self):
        packages = sound()
        found = Environment((3, 11), packages, "13.0", "13.0", "==2.11.0", True, GPU)
        assert find_problems(found) == []

    def test_cpu_torch_beside_cuda_torchvision_is_one_problem(self):
        packages = sound(torch=Package("2.11.0+cpu"), torchvision=Package("0.26.0+cu130", NO_NMS))
        [problem] = find_problems(Environment((3, 11), packages, torchvision_needs="==2.11.0"))
        assert problem.fatal
        assert "not built for each other" in problem.title

    def test_other_release_and_other_build_is_one_problem(self):
        packages = sound(torch=Package("2.13.0+cpu"), torchvision=Package("0.26.0+cu130", NO_NMS))
        [problem] = find_problems(Environment((3, 11), packages, torchvision_needs="==2.11.0"))
        assert "not of one release" in problem.title

    def test_nothing_is_there(self):
        packages = {name: Package() for name in REQUIRED}
        problems = find_problems(Environment((3, 9), packages, driver=GPU))
        assert all(problem.fatal for problem in problems)
        assert len(problems) == 4  # Python, torch and torchvision, the others, Detectron2


class TestProgram:
    def test_inspects_a_sound_package(self):
        package = inspect_package("numpy", "numpy")
        assert package.error is None
        assert package.version == sys.modules["numpy"].__version__

    def test_inspects_an_absent_package(self):
        assert inspect_package("no-such-thing", "no_such_thing").absent

    def test_inspects_a_broken_package(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        folder = tmp_path / "broken_thing"
        folder.mkdir()
        (folder / "__init__.py").write_text("raise OSError('libfoo.so: gone\\nmore')")
        (folder / "version.py").write_text("__version__ = '1.2+cpu'\n")
        monkeypatch.syspath_prepend(tmp_path)
        package = inspect_package("broken-thing", "broken_thing")
        assert package == Package("1.2+cpu", "OSError: libfoo.so: gone", str(folder))

    def test_this_environment(self, capsys: pytest.CaptureFixture):
        assert main() == 0
        printed = capsys.readouterr().out
        assert "torchvision" in printed
        assert "PROBLEM" not in printed

    def test_fatal_problem(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
        packages = sound(torch=Package(), detectron2=Package("0.6", "ImportError: x"))
        found = Environment((3, 11), packages, driver=GPU)
        monkeypatch.setattr(check_env, "inspect_environment", lambda: found)
        assert main() == 1
        printed = capsys.readouterr().out
        assert "PROBLEM: not installed: torch\n   mend: " in printed
        assert "does not import" in printed

    def test_warnings_do_not_fail(self, monkeypatch: pytest.MonkeyPatch):
        packages = sound(detectron2=Package("0.5"))
        found = Environment((3, 11), packages)
        monkeypatch.setattr(check_env, "inspect_environment", lambda: found)
        assert main() == 0
        assert "warning: detectron2 0.5" in report(found, find_problems(found))
