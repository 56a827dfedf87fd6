"""What the command-line programs share: arguments, and errors in one line."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import select
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from .error_lines import error_line

logger = logging.getLogger(__name__)


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
    """End the program with one line on whatever goes wrong, and on Ctrl-C; with the traceback if
    ``args.debug``. Programs that log into a file leave the traceback there.

    A reader of the output that goes away, as ``head`` does, ends the program silently; where only
    log lines are printed it goes on, and they are dropped. So is what is printed where an output
    was closed from the start.

    Args:
        args: of a parser with ``--debug``, as :func:`new_parser` makes them.
        after: is put behind an ``OSError``'s message, after a semicolon: what is saved, for
            example.
        interrupted: what is said on Ctrl-C; the exit status is 130 then.
        names: what messages call by a config key, and how this program calls it.
        status: the exit status after an error.
    """
    logging.raiseExceptions = args.debug  # else each line that cannot be printed is a traceback
    _open_closed_outputs()
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, BrokenPipeError) and _has_no_reader():
            sys.exit(128 + 13)  # as if killed by the signal SIGPIPE
        if args.debug:
            raise
        if isinstance(error, KeyboardInterrupt):
            print(f"\n{interrupted}", file=sys.stderr)
            sys.exit(130)
        message = error_line(error)
        if after and isinstance(error, OSError):
            message += f"; {after}"
        for key, option in (names or {}).items():
            message = message.replace(key, option)
        # Only handlers of files show it, see engine/quiet_terminal.py.
        logger.debug("The program ended with an error:", exc_info=True)
        if status == 1:
            sys.exit(f"error: {message}")
        print(f"error: {message}", file=sys.stderr)
        sys.exit(status)


def _open_closed_outputs() -> None:
    """Lead what the shell has closed (``>&-``) to nowhere: the next file that is opened, a
    checkpoint for example, would get its number, and all that is printed."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is this one.
            os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)
        if getattr(sys, name) is None:
            stream = open(number, "w" if number else "r", closefd=False)  # noqa: SIM115 - as long as the program runs
            setattr(sys, name, stream)


def _has_no_reader() -> bool:
    """Whether nobody reads what the program prints. The rest of it is dropped then, since it would
    fail again when Python ends."""
    try:
        output = sys.stdout.fileno()
    except (OSError, ValueError):  # no file
        return False
    poll = select.poll()
    poll.register(output, 0)  # errors are always reported
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    return True
