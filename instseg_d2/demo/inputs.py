"""Which files a person means by paths, folders and patterns, and what their results are called."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import ConfigError, DataError
from ..image_sources import IMAGE_SUFFIXES, VIDEO_SUFFIXES, images_in


@dataclass
class Inputs:
    """What is to be predicted.

    Attributes:
        images, videos: paths, each file once, in the order they were asked for.
        problems: a line for each thing asked for that gives nothing.
        left_out: files that were found in a folder of results, by a folder or a pattern.
    """

    images: list[Path] = field(default_factory=list)
    videos: list[Path] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    left_out: int = 0


def find_inputs(wanted: Sequence[str], results: Iterable[Path]) -> Inputs:
    """The files meant by paths of images, videos and folders, and by patterns.

    What exists under its very name is that, whatever characters are in it; only else is it a
    pattern, in which ``**`` stands for any folders. Of a folder those images count that are in it
    itself; of a pattern's files those that are images or videos by their ending.

    Args:
        wanted: what the user asks for.
        results: folders that results are written to. Their files are not looked at unless asked for
            by path.
    """
    inputs = Inputs()
    folders = [folder.resolve() for folder in results]
    seen: set[Path] = set()
    for text in wanted:
        try:
            found, is_search = _files_of(text)
        except (DataError, OSError) as error:
            inputs.problems.append(str(error))
            continue
        for path in found:
            real = path.resolve()
            if is_search and any(real.is_relative_to(folder) for folder in folders):
                inputs.left_out += 1
            elif real not in seen:
                seen.add(real)
                is_video = path.suffix.lower() in VIDEO_SUFFIXES
                (inputs.videos if is_video else inputs.images).append(path)
    return inputs


def _files_of(text: str) -> tuple[list[Path], bool]:
    """The files, and whether they were looked for rather than named.

    Raises:
        DataError: there are none.
    """
    path = Path(text)
    if path.is_dir():
        return images_in(path), True
    if path.exists():
        return [path], False
    if not glob.has_magic(text):
        raise DataError(f"{text} does not exist")
    known = IMAGE_SUFFIXES | VIDEO_SUFFIXES
    found = [Path(name) for name in sorted(glob.glob(text, recursive=True))]
    files = [path for path in found if path.suffix.lower() in known and path.is_file()]
    if not files:
        raise DataError(f"no image or video matches {text}")
    return files, True


def result_names(paths: Sequence[Path]) -> list[Path]:
    """A relative path without ending for the results of each file, no two the same.

    Where files of several folders have the same name, all keep their folders, below the one that
    all are in. Names that would still be the same, also on a disk that does not tell A from a, get
    their ending, and a number at last.

    Args:
        paths: different files.
    """
    absolute = [Path(os.path.abspath(path)) for path in paths]
    if not absolute:
        return []
    stems = [Path(path.stem) for path in absolute]
    if max(Counter(map(_key, stems)).values()) > 1:
        root = os.path.commonpath([path.parent for path in absolute])
        stems = [path.relative_to(root).with_suffix("") for path in absolute]
    counts = Counter(map(_key, stems))
    names: list[Path] = []
    taken: set[str] = set()
    for stem, path in zip(stems, absolute, strict=True):
        name = stem
        if counts[_key(stem)] > 1:
            name = stem.with_name(f"{stem.name}_{path.suffix.lstrip('.').lower()}")
        base, number = name, 2
        while _key(name) in taken or (number > 2 and _key(name) in counts):
            name = base.with_name(f"{base.name}_{number}")
            number += 1
        taken.add(_key(name))
        names.append(name)
    return names


def _key(path: Path) -> str:
    return str(path).casefold()


def refuse_to_overwrite_inputs(targets: Iterable[Path], inputs: Iterable[Path]) -> None:
    """
    Raises:
        ConfigError: a result would take the place of an image or video that it is made of.
    """
    sources = {path.resolve() for path in inputs}
    for target in targets:
        if target.resolve() in sources:
            raise ConfigError(
                f"the result {target} would overwrite an input of that name; give another --output"
            )
