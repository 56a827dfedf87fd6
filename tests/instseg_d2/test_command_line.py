"""Arguments and errors of the command-line programs."""

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from instseg_d2.command_line import (
    add_overrides,
    fraction,
    new_parser,
    one_line_errors,
    positive,
    whole,
)
from instseg_d2.errors import ConfigError


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [(whole, "0", 0), (positive, "12", 12), (fraction, "0", 0.0), (fraction, "1", 1.0)],
)
def test_numbers(kind: Callable[[str], float], text: str, value: float) -> None:
    assert kind(text) == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (whole, "-1"), (whole, "1.5"), (whole, ""), (whole, "²"), (whole, "٣"),
        (positive, "0"), (positive, "x"),
        (fraction, "1.1"), (fraction, "-0.1"), (fraction, "nan"), (fraction, "x"),
    ],
)  # fmt: skip
def test_what_is_no_such_number_is_named(kind: Callable[[str], float], text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not a"):
        kind(text)


def test_overrides_come_after_the_options() -> None:
    parser = new_parser("what it does")
    add_overrides(parser)
    args = parser.parse_args(["--debug", "A.KEY", "1", "B.KEY", "--debug"])
    assert args.debug
    assert args.opts == ["A.KEY", "1", "B.KEY", "--debug"]


def arguments(*, debug: bool = False) -> argparse.Namespace:
    return argparse.Namespace(debug=debug)


def test_what_the_user_can_mend_ends_in_one_line() -> None:
    with pytest.raises(SystemExit) as stopped, one_line_errors(arguments(), after="not this"):
        raise ConfigError("a key is wrong")
    assert stopped.value.code == "error: a key is wrong"


def test_what_the_system_refuses_ends_in_one_line() -> None:
    with pytest.raises(SystemExit) as stopped, one_line_errors(arguments(), after="half is saved"):
        Path("/nowhere/at/all").read_text()
    assert stopped.value.code == (
        "error: /nowhere/at/all does not exist; check the path; half is saved"
    )


def test_config_keys_are_called_as_the_program_calls_them() -> None:
    with (
        pytest.raises(SystemExit) as stopped,
        one_line_errors(arguments(), names={"A.KEY True": "--key"}),
    ):
        raise ConfigError("set A.KEY True")
    assert stopped.value.code == "error: set --key"


def test_an_interruption_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with (
        pytest.raises(SystemExit) as stopped,
        one_line_errors(arguments(), interrupted="go on with the same command"),
    ):
        raise KeyboardInterrupt
    assert stopped.value.code == 130
    assert "go on with the same command" in capsys.readouterr().err


@pytest.mark.parametrize("error", [ConfigError("x"), OSError("x"), KeyboardInterrupt()])
def test_debugging_shows_the_traceback(error: BaseException) -> None:
    with pytest.raises(type(error)), one_line_errors(arguments(debug=True)):
        raise error


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MemoryError(), "the memory does not suffice; take smaller batches"),
        (RuntimeError("[enforce fail] can't allocate memory: 9 bytes"), "the memory does not"),
        (torch.OutOfMemoryError("CUDA out of memory."), "the memory of the GPU does not suffice"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), "a process that"),
        (FileNotFoundError(2, "No such file", "a.json"), "a.json does not exist; check the path"),
        (OSError(28, "No space left", "a.pth"), "a.pth cannot be written, because the disk is"),
        (ConfigError("two lines:\n  one\n  two"), "two lines: one; two"),
    ],
)
def test_every_error_has_a_line(error: Exception, line: str) -> None:
    with pytest.raises(SystemExit) as stopped, one_line_errors(arguments()):
        raise error
    assert str(stopped.value.code).startswith(f"error: {line}")
    assert "\n" not in str(stopped.value.code)


def test_mistakes_of_the_program_are_called_so() -> None:
    with pytest.raises(SystemExit) as stopped, one_line_errors(arguments()):
        raise ZeroDivisionError("division by zero")
    message = str(stopped.value.code)
    assert message.startswith("error: ZeroDivisionError in instseg_d2/test_command_line.py, line ")
    assert ": division by zero. The program did not expect this" in message
    assert "--debug" in message


def run_under(repo: Path, body: str, shell: str) -> subprocess.CompletedProcess[str]:
    """Run a program with this body, its file descriptors set by a shell's redirections."""
    code = (
        "import argparse, logging, os, sys\n"
        "from instseg_d2.command_line import one_line_errors\n"
        "with one_line_errors(argparse.Namespace(debug=False)):\n"
        f"    {body}"
    )
    line = f'"$0" -c "$1" {shell}'
    return subprocess.run(
        ["bash", "-c", line, sys.executable, code],
        cwd=repo, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_files_do_not_get_the_number_of_a_closed_output(repo: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    body = f"f = open({str(path)!r}, 'w'); print('printed', flush=True); os.write(1, b'more')"
    done = run_under(repo, body, "<&- >&-")
    assert (done.returncode, done.stderr) == (0, "")
    assert path.read_text() == ""


def test_log_lines_that_cannot_be_printed_are_dropped(repo: Path) -> None:
    body = "logging.basicConfig(stream=sys.stdout); logging.warning('x'); os.write(2, b'end')"
    done = run_under(repo, body, ">/dev/full")
    assert done.stderr.startswith("end")
    assert "Traceback" not in done.stderr


def test_output_that_nobody_reads_ends_the_program_silently(repo: Path) -> None:
    code = (
        "import argparse; from instseg_d2.command_line import one_line_errors\n"
        "with one_line_errors(argparse.Namespace(debug=False)):\n"
        "    while True: print('x' * 1000)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=repo, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 128 + 13
