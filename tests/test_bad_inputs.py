"""Every slip of a user ends in one line that says what is wrong, where, and what to do."""

import logging
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.logger import _cached_log_stream, setup_logger

from instseg_d2.families import FAMILY_PACKAGES
from tests.bad_inputs import arguments, config, data, images, weights
from tests.bad_inputs.case import Case, results_in, run_here

AREAS = {
    "arguments": arguments.CASES,
    "config": config.CASES,
    "data": data.CASES,
    "images": images.CASES,
    "weights": weights.CASES,
}
CASES = {f"{area}: {case.name}": case for area, cases in AREAS.items() for case in cases}


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory, tiny_overrides: list[str]) -> dict[str, str]:
    """What ``{...}`` in a command stands for."""
    folder = tmp_path_factory.mktemp("weights")
    return {"tiny": shlex.join(tiny_overrides), **weights.write_shared(folder, tiny_overrides)}


@pytest.fixture(autouse=True)
def _programs_leave_nothing_behind(no_own_data_left: None) -> Iterator[None]:
    _forget_logging()
    yield
    _forget_logging()
    for name in [name for name in DatasetCatalog.list() if name.startswith("shapes_")]:
        DatasetCatalog.pop(name)
        MetadataCatalog.pop(name, None)


def _forget_logging() -> None:
    """Detectron2 sets a log up once for each folder and process; its handlers keep the stdout."""
    setup_logger.cache_clear()
    _cached_log_stream.cache_clear()
    for name in ("detectron2", "fvcore", "instseg_d2", *FAMILY_PACKAGES):
        logging.getLogger(name).handlers.clear()


@pytest.mark.parametrize("name", CASES)
def test_a_bad_input_ends_in_one_line(
    name: str,
    words: Mapping[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    case: Case = CASES[name]
    if "no CUDA device" in case.says and torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    monkeypatch.chdir(tmp_path)
    if case.files is not None:
        case.files(tmp_path)
    before = results_in(tmp_path)
    ended = run_here(case.argv(words), monkeypatch, capfd)
    assert ended.status == case.status, ended.printed
    assert re.fullmatch(rf"(\w+\.py: )?error: {case.pattern}", ended.last_line), ended.last_line
    assert len(re.findall(r"\berror: ", ended.printed)) == 1, ended.printed
    assert "Traceback" not in ended.printed
    assert results_in(tmp_path) == before


def test_every_program_has_a_case(repo: Path) -> None:
    tried = {case.command.split()[0] for case in CASES.values()}
    programs = {"train_net.py", *(f"tools/{path.name}" for path in (repo / "tools").glob("*.py"))}
    assert programs - tried == {"tools/infer_onnx.py"}  # goes to machines without this package


IN_THE_LOOP = "images: a training image that is none"
"""Found while Detectron2's loop is running, which logs the traceback."""


def test_the_log_file_keeps_the_traceback(
    words: Mapping[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    case = CASES[IN_THE_LOOP]
    monkeypatch.chdir(tmp_path)
    assert case.files is not None
    case.files(tmp_path)
    run_here(case.argv(words), monkeypatch, capfd)
    assert "Traceback (most recent call last)" in (tmp_path / "out" / "log.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--debug"]])
@pytest.mark.parametrize("name", [IN_THE_LOOP, "weights: conversion of code"])
def test_the_shell_sees_the_traceback_only_if_asked_for(
    repo: Path, words: Mapping[str, str], tmp_path: Path, name: str, options: list[str]
) -> None:
    case = CASES[name]
    assert case.files is not None
    case.files(tmp_path)
    program = repo / shlex.split(case.command)[0]
    done = subprocess.run(
        [sys.executable, str(program), *options, *case.argv(words)[1:]],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    if options:
        assert "Traceback (most recent call last)" in done.stderr
    else:
        assert re.fullmatch(f"error: {case.pattern}", done.stderr.strip().split("\n")[-1])
        assert "Traceback" not in done.stdout + done.stderr
