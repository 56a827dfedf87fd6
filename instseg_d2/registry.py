"""Look-ups in Detectron2's registries that fail with a message for the user."""

import difflib
from typing import Any

from detectron2.utils.registry import Registry

from .errors import ConfigError


def look_up(registry: Registry, name: str, key: str) -> Any:
    """The object registered as ``name``.

    Args:
        registry: where to look.
        name: what the config says.
        key: the config key that says it, for the message.

    Raises:
        ConfigError: no such object; the message lists those there are, the nearest first.
    """
    if name in registry:
        return registry.get(name)
    names = [known for known, _ in registry]
    nearest = difflib.get_close_matches(name, names, n=len(names), cutoff=0.3)
    ordered = nearest + sorted(set(names) - set(nearest))
    raise ConfigError(f"{key} is {name!r}, which does not exist; known are {', '.join(ordered)}")
