"""Mistakes that the person at the keyboard can mend.

``train_net.py`` and the tools print these without a traceback: the message alone must say what was
wrong, where (file, image id, annotation id, config key) and what to do.
"""

from __future__ import annotations

import reprlib
from typing import Any


class UserError(Exception):
    """Base of every error whose message is written for the user rather than for a developer.

    What messages quote from files cannot steer the terminal that they are shown on.
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*(_printable(arg) if isinstance(arg, str) else arg for arg in args))


def _printable(text: str) -> str:
    """The text with escapes in place of control characters, except for the ends of lines."""
    if text.isprintable():
        return text
    return "".join(
        sign if sign.isprintable() or sign in "\n\t" else sign.encode("unicode_escape").decode()
        for sign in text
    )


class ConfigError(UserError, ValueError):
    """A config file, key or value that cannot be used."""


class DataError(UserError):
    """A data set, annotation or image that cannot be used."""


class NonFiniteError(DataError):
    """A model's answer to an image that holds infinite values or NaN: the model is at fault."""


class NonFiniteStepError(UserError, FloatingPointError):
    """A training step with losses or gradients that are infinite or NaN."""


class WeightsError(UserError):
    """A weights file that is absent, damaged or belongs to another model."""


class UnreadableWeightsError(WeightsError):
    """A weights file that is absent or damaged."""


class SavingError(UserError):
    """A file that cannot be written, because the disk is full for example."""


class DeviceError(UserError):
    """A device that was asked for and is not there."""


class LaunchError(UserError):
    """Several processes that cannot be started as asked, or that do not find each other."""


class DependencyError(UserError):
    """A package that is not installed and was asked for."""


def short_repr(value: Any) -> str:
    """A value from a file for a message: one short line, whatever the value is.

    Of containers only the first few entries and two levels are shown: a file can hold one that
    refers to itself, or whose ``repr`` would be longer than the memory.
    """
    return _SHORT.repr(value)


class _ShortRepr(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 2
        self.maxstring = self.maxother = self.maxlong = 80
        self.maxdict = self.maxlist = self.maxtuple = self.maxset = 6

    def repr1(self, x: Any, level: int) -> str:
        """By what it is, not by its class's name: ``repr`` of an OrderedDict shows all."""
        for kind in (dict, list, tuple, set, frozenset):
            if isinstance(x, kind):
                text: str = getattr(self, f"repr_{kind.__name__}")(x, level)
                return text
        if type(x) in (bool, int, float, complex, str, bytes) or x is None:
            return super().repr1(x, level)
        return f"a {type(x).__name__}"

    def repr_int(self, x: int, level: int) -> str:
        """Python refuses to write out very long ones."""
        return super().repr_int(x, level) if x.bit_length() < 1000 else "a very long number"


_SHORT = _ShortRepr()


def user_message(error: UserError) -> str:
    """The message alone: a data loader's worker wraps it into its traceback."""
    text = str(error)
    if "Original Traceback" not in text:
        return text
    return text.rsplit(f"{type(error).__name__}: ", 1)[-1].strip()
