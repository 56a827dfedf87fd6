"""What README and docs point at is there, and nothing in them is left to fill in."""

import contextlib
import functools
import io
import re
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from instseg_d2.config import get_cfg, known_keys

REPO = Path(__file__).resolve().parents[1]
PAGES = [REPO / "README.md", *sorted((REPO / "docs").glob("*.md"))]
PROGRAMS = [
    "train_net.py",
    *(f"tools/{path.name}" for path in sorted((REPO / "tools").glob("*.py"))),
]
OTHER_PROGRAMS = ("pip ", "python -m", "srun ", "tensorboard ", "torchrun ", "trtexec ")
OTHER_OPTIONS = {"--max-restarts", "--signal"}  # torchrun's and SLURM's


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_blanks(page: Path) -> None:
    text = page.read_text()
    assert not re.search(r"@[A-Z]+@", text)
    for target in re.findall(r"\]\(([^)#]+)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_configs_in_the_readme_exist() -> None:
    text = (REPO / "README.md").read_text()
    names = re.findall(r"\b(sparse_inst_\w+|quickstart/\w+)", text)
    assert len(set(names)) >= 12
    for name in names:
        folder = "configs" if "/" in name else "configs/sparseinst"
        assert (REPO / folder / f"{name}.yaml").is_file(), name


def test_the_python_examples_name_what_exists() -> None:
    examples = re.findall(r"```python\n(.*?)```", (REPO / "README.md").read_text(), re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        imports = [line for line in example.splitlines() if line.startswith("from ")]
        exec("\n".join(imports), {})  # the rest needs trained weights: tests of the predictor


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_config_keys_that_are_named_exist(page: Path) -> None:
    keys = set(known_keys(get_cfg()))
    ends = {key.split(".", depth)[-1] for key in keys for depth in range(key.count(".") + 1)}
    for name in re.findall(r"\b[A-Z][A-Z0-9_]*(?:\.[A-Z][A-Z0-9_]*)+\b", page.read_text()):
        assert name in ends, name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_name_programs_and_options_that_exist(
    page: Path, options_of: Callable[[str], set[str]]
) -> None:
    for program, options in _commands(page.read_text()):
        assert (REPO / program).is_file(), program
        for option in options:
            assert option in options_of(program), f"{program} {option}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_that_the_text_names_are_of_some_program(
    page: Path, options_of: Callable[[str], set[str]]
) -> None:
    known = OTHER_OPTIONS.union(*(options_of(program) for program in PROGRAMS))
    for command in re.findall(r"`([^`]+)`", _without_blocks(page.read_text())):
        if not command.startswith(OTHER_PROGRAMS):
            for option in re.findall(r"(?<!\S)--[a-z][a-z-]+", command):
                assert option in known, command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tests_that_are_named_exist(page: Path) -> None:
    tests = [f"/{path.relative_to(REPO)}" for path in (REPO / "tests").rglob("test_*.py")]
    for name in re.findall(r"[\w/]*\btest_\w+\.py", page.read_text()):
        assert any(path.endswith(f"/{name}") for path in tests), name


def test_every_program_is_in_some_page() -> None:
    text = "".join(page.read_text() for page in PAGES) + (REPO / "Makefile").read_text()
    for program in PROGRAMS:
        assert program in text, program


@pytest.fixture(scope="module")
def options_of() -> Callable[[str], set[str]]:
    """The options of a program (a path from the root of the checkout), as its --help has them."""

    @functools.cache
    def options(program: str) -> set[str]:
        printed = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")  # as stdout: some set it up
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
            patch.setattr(sys, "argv", [program, "--help"])
            with pytest.raises(SystemExit):
                runpy.run_path(str(REPO / program), run_name="__main__")
        printed.seek(0)
        return set(re.findall(r"--[a-z][a-z-]+", printed.read()))

    return options


def _without_blocks(text: str) -> str:
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def _commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """Program and options of every command line, in blocks and between backticks."""
    blocks = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    lines += [line.replace("\n", " ") for line in re.findall(r"`([^`]+)`", _without_blocks(text))]
    for line in lines:
        found = re.search(r"(?<![\w/])(train_net\.py|tools/\w+\.py)(.*)", line.split(" #")[0])
        if found:
            program, rest = found.groups()
            yield program, re.findall(r"(?<!\S)--[a-z][a-z-]+", rest)
