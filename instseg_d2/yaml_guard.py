"""Config files that are small, shallow and finite, before anything is built from them.

A YAML of a few hundred bytes can stand for billions of values, by references to references
("billion laughs"); and its ``_BASE_`` files can be each other's.
"""

from __future__ import annotations

import os
from pathlib import Path

import yaml
from detectron2.utils.file_io import PathManager

from .errors import ConfigError, short_repr
from .remote_files import url_problem

MAX_BYTES = 500_000
MAX_DEPTH = 50
MAX_VALUES = 100_000
"""In one file, each reference counted as all that it refers to."""

MAX_FILES = 50
"""A config and all its ``_BASE_`` files."""

_BASE = "_BASE_"


def check_yaml_file(path: str) -> None:
    """Look at a config file and its ``_BASE_`` files, as Detectron2 finds them.

    Raises:
        ConfigError: one is too large, nested too deeply, or refers to itself.
        yaml.YAMLError: one is no YAML, or asks for other objects than plain values.
        FileNotFoundError: one is not there.
    """
    waiting: list[tuple[str, tuple[str, ...]]] = [(path, ())]
    count = 0
    while waiting:
        file, within = waiting.pop()
        count += 1
        if os.path.realpath(file) in within or count > MAX_FILES:
            raise ConfigError(
                f"{path}: its {_BASE} files are each other's, or more than {MAX_FILES}. The last "
                f"one was {file}; take a {_BASE} out."
            )
        for base in _bases(file):
            waiting.append((base, (*within, os.path.realpath(file))))


def _bases(path: str) -> list[str]:
    if (problem := url_problem(path)) is not None:
        raise ConfigError(f"the {_BASE} file {problem}")
    local = PathManager.get_local_path(path)
    if os.path.getsize(local) > MAX_BYTES:
        raise ConfigError(f"{path} is no config: it has more than {MAX_BYTES} bytes.")
    text = Path(local).read_text(encoding="utf-8")
    _check_values(text, path)
    content = yaml.safe_load(text)
    bases = content.get(_BASE, []) if isinstance(content, dict) else []
    bases = bases if isinstance(bases, list) else [bases]
    for base in bases:
        if not isinstance(base, str):
            raise ConfigError(f"{path}: {_BASE} is {short_repr(base)}, expected a file's name")
    return [_beside(path, os.path.expanduser(base)) for base in bases]


def _beside(path: str, base: str) -> str:
    if base.startswith(("/", "https://", "http://")):
        return base
    return os.path.join(os.path.dirname(path), base)


def _check_values(text: str, path: str) -> None:
    """Count the values without building them."""
    counts = [0]  # of the containers that are open, and of all
    anchors: list[str | None] = []  # of the containers that are open
    known: dict[str | None, int] = {}
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        count = 0
        if isinstance(event, yaml.CollectionStartEvent):
            anchors.append(event.anchor)
            counts.append(1)
        elif isinstance(event, yaml.CollectionEndEvent):
            count = counts.pop()
            known[anchors.pop()] = count
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor in anchors:
                raise ConfigError(f"{path}: '*{event.anchor}' refers to what it is in itself.")
            count = known.get(event.anchor, 1)
        elif isinstance(event, yaml.ScalarEvent):
            count = 1
            known[event.anchor] = 1
        counts[-1] += count
        if len(counts) > MAX_DEPTH or counts[-1] > MAX_VALUES:
            raise ConfigError(
                f"{path} is no config: it has more than {MAX_VALUES} values, counting what '*' "
                f"repeats, or nests them more than {MAX_DEPTH} deep."
            )
