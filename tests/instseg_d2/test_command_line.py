"""Arguments and errors of the command-line programs."""

import argparse
from collections.abc import Callable
from pathlib import Path

import pytest

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
    assert str(stopped.value.code).startswith("error: [Errno 2]")
    assert str(stopped.value.code).endswith("'/nowhere/at/all'; half is saved")


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


def test_mistakes_of_the_program_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError), one_line_errors(arguments()):
        raise ZeroDivisionError
