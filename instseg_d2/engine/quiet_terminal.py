"""Tracebacks go into the log file, not to the terminal: there one line says what is wrong."""

import logging
import sys
from collections.abc import Iterable


def hide_tracebacks(logger_names: Iterable[str]) -> None:
    """Keep records with a traceback from the handlers of these loggers that write to the terminal.

    Detectron2's training loop logs one before the error leaves it, also for a slip of the user.
    Nor does a terminal that is gone, as behind ``head``, lead to tracebacks for each line.
    """
    logging.raiseExceptions = False
    for name in logger_names:
        for handler in logging.getLogger(name).handlers:
            is_terminal = getattr(handler, "stream", None) in (sys.stdout, sys.stderr)
            if is_terminal and _without_traceback not in handler.filters:
                handler.addFilter(_without_traceback)


def _without_traceback(record: logging.LogRecord) -> bool:
    return record.exc_info is None
