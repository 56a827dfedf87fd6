"""Converting a file into another: paths, reading, writing, and what to tell the user."""

from __future__ import annotations

import os
from pathlib import Path

from instseg_d2.errors import WeightsError
from instseg_d2.weights.convert.steps import NATIVE, Conversion, Options, convert
from instseg_d2.weights.file import Checkpoint, StateDict, file_kind, read_weights_file
from instseg_d2.weights.file_writing import SUFFIXES, write_weights_file
from instseg_d2.weights.formats import is_classifier
from instseg_d2.weights.name_hash import hash_in_name, verify_hash_in_name


def convert_file(
    source: str,
    dest: str,
    options: Options,
    *,
    trust_file: bool = False,
    overwrite: bool = False,
    verify_hash: bool = True,
) -> list[tuple[str, str]]:
    """Read a checkpoint, convert it, and write it whole or not at all.

    Args:
        source: file of any kind that :func:`~instseg_d2.weights.file.read_weights_file` reads.
        dest: file to be written, in the format that its suffix names.
        options: what to do.
        trust_file: read, if need be, with the code that the file brings along.
        overwrite: replace ``dest`` if it exists.
        verify_hash: check a ``source`` whose name ends in digits of its hash against them.

    Returns:
        (topic, text) of what was found and done, in order.

    Raises:
        WeightsError: a path, the file, or options that do not fit it.
    """
    check_paths(source, dest, overwrite)
    if verify_hash:
        verify_hash_in_name(source)
    checkpoint = read_weights_file(source, trust_file=trust_file)
    found = f"{source}, {file_format(source, checkpoint)}, {_amount(checkpoint['model'])}"
    try:
        work = convert(checkpoint, Path(dest).suffix, options)
    except WeightsError as error:
        raise WeightsError(f"{source}: {error}") from error
    try:
        write_checkpoint(dest, work.checkpoint, is_plain=work.is_plain)
    except (OSError, RuntimeError) as error:
        # After a failed write torch.save fails once more, with another error, as it ends the file.
        reason = error.__context__ if isinstance(error.__context__, OSError) else error
        raise WeightsError(f"{dest} cannot be written: {reason}") from error
    size = os.path.getsize(dest) / 2**20
    return [
        ("read", found),
        *work.said,
        ("written", f"{dest}, {_amount(work.state)}, {size:.1f} MiB"),
        ("use", _how_to_use(dest, work, options)),
    ]


def check_paths(source: str, dest: str, overwrite: bool) -> None:
    """Raise :class:`WeightsError` for paths that cannot be read or are not to be written."""
    if "://" in source:
        raise WeightsError(f"{source}: only local files are converted; fetch it first.")
    if not os.path.exists(source):
        raise WeightsError(f"{source}: there is no such file.")
    if not os.path.isfile(source):
        raise WeightsError(f"{source} is a folder, not a file.")
    if Path(dest).suffix not in SUFFIXES:
        raise WeightsError(
            f"{dest}: the suffix says what to write; give a name that ends in "
            f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}."
        )
    if (digits := hash_in_name(dest)) is not None:
        raise WeightsError(
            f"{dest}: digits such as {digits} at the end of a name are taken for the hash of the "
            "file, which is known only when it is written. Give a name without them."
        )
    folder = os.path.dirname(dest) or "."
    if not os.path.isdir(folder):
        raise WeightsError(f"{dest}: there is no folder {folder}. Make it first, or correct it.")
    if not os.path.exists(dest):
        return
    if os.path.isdir(dest):
        raise WeightsError(f"{dest} is a folder. Give the name of a file in it.")
    if os.path.samefile(source, dest):
        raise WeightsError(f"{dest} is the file to be read itself. Give another name to write to.")
    if not overwrite:
        raise WeightsError(f"{dest} exists. Give another name, or --overwrite to replace it.")


def write_checkpoint(path: str, checkpoint: Checkpoint, *, is_plain: bool = False) -> None:
    """Write a checkpoint whole or not at all, so that Detectron2 reads it, too.

    Args:
        path: ends in one of ``SUFFIXES``; for what each can hold see
            :func:`~instseg_d2.weights.file_writing.write_weights_file`.
        checkpoint: as :func:`~instseg_d2.weights.file.read_weights_file` describes it.
        is_plain: write the dict of weights itself into a ``.pth``, as torchvision does.
    """
    extras = {key: value for key, value in checkpoint.items() if key not in ("model", "__author__")}
    write_weights_file(path, checkpoint["model"], extras, is_plain=is_plain)


def file_format(path: str, checkpoint: Checkpoint) -> str:
    """The format of a file that has been read, in words."""
    author = checkpoint.get("__author__")
    if author == "Caffe2":
        return "a pickle of Caffe2's blobs"
    kinds = {
        ".pth": "a PyTorch file",
        ".safetensors": "a safetensors file",
        ".pkl": "a pickle",
        ".t7": "a file of Lua Torch7",
    }
    kind = kinds[file_kind(path)]
    return f"{kind} by '{author}'" if author else kind


def _amount(state: StateDict) -> str:
    numbers = sum(value.numel() for value in state.values())
    return f"{len(state)} tensors, {numbers / 1e6:.1f} million numbers"


def _how_to_use(dest: str, work: Conversion, options: Options) -> str:
    if options.to_names != NATIVE:
        if not dest.endswith(".pth"):
            return f"wherever the names of {options.to_names} are expected"
        strict = "" if any(map(is_classifier, work.state)) else ", strict=False"
        return f"model.load_state_dict(torch.load('{dest}', weights_only=True){strict})"
    where = "here" if dest.endswith(".safetensors") else "here and in Detectron2"
    if work.checkpoint.get("matching_heuristics"):
        return f"MODEL.WEIGHTS {dest}, {where}"
    return f"MODEL.WEIGHTS {dest}, {where}, with the config that it was trained with"
