"""What the command-line programs share: arguments, and errors in one line."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from .errors import UserError, user_message


def new_parser(description: str | None, **options: Any) -> argparse.ArgumentParser:
    """A parser that leaves the lines of the description as they are, and knows ``--debug``.

    Args:
        description: the program's docstring.
        options: more of :class:`argparse.ArgumentParser`.
    """
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        **options,
    )
    add_debug_option(parser)
    return parser


def add_debug_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--debug``, which :func:`one_line_errors` reads."""
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def add_overrides(parser: argparse.ArgumentParser, name: str = "opts") -> None:
    """Add ``KEY VALUE KEY VALUE ...``, config overrides, which come after all options."""
    parser.add_argument(
        name, nargs=argparse.REMAINDER, help="config overrides: KEY VALUE KEY VALUE ..."
    )


def whole(text: str) -> int:
    """A whole number from 0, for argparse."""
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0")
    return int(text)


def positive(text: str) -> int:
    """A whole number above 0, for argparse."""
    if not (text.isascii() and text.isdecimal()) or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def fraction(text: str) -> float:
    """A number from 0 to 1, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:  # nor is NaN
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return value


@contextlib.contextmanager
def one_line_errors(
    args: argparse.Namespace,
    *,
    after: str = "",
    interrupted: str = "interrupted",
    names: Mapping[str, str] | None = None,
    status: int = 1,
) -> Iterator[None]:
    """End the program with one line on what the user can mend, on what the system refuses (files
    that are not there, a full disk), and on Ctrl-C; with the traceback if ``args.debug``.

    Args:
        args: of a parser with ``--debug``, as :func:`new_parser` makes them.
        after: is put behind an ``OSError``'s message, after a semicolon: what is saved, for
            example.
        interrupted: what is said on Ctrl-C; the exit status is 130 then.
        names: what messages call by a config key, and how this program calls it.
        status: the exit status after an error.
    """
    try:
        yield
    except (UserError, OSError, KeyboardInterrupt) as error:
        if args.debug:
            raise
        if isinstance(error, KeyboardInterrupt):
            print(f"\n{interrupted}", file=sys.stderr)
            sys.exit(130)
        message = user_message(error) if isinstance(error, UserError) else str(error)
        if after and isinstance(error, OSError):
            message += f"; {after}"
        for key, option in (names or {}).items():
            message = message.replace(key, option)
        if status == 1:
            sys.exit(f"error: {message}")
        print(f"error: {message}", file=sys.stderr)
        sys.exit(status)
