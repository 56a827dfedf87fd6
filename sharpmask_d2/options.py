"""Config values that cannot be, with a message for the user."""

from collections.abc import Mapping
from typing import TypeVar

from instseg_d2.errors import ConfigError

T = TypeVar("T")


def choose(options: Mapping[str, T], name: str, key: str) -> T:
    """``options[name]``.

    Args:
        key: the config key that says ``name``, for the message.

    Raises:
        ConfigError: no such option; the message lists those there are.
    """
    if name not in options:
        raise ConfigError(
            f"{key} is {name!r}, which does not exist; known are {', '.join(options)}"
        )
    return options[name]


def require_at_least(least: int, value: int, key: str) -> int:
    """``value``.

    Args:
        key: the config key that says it, for the message.

    Raises:
        ConfigError: it is less.
    """
    if value < least:
        raise ConfigError(f"{key} is {value}, but must be at least {least}")
    return value
