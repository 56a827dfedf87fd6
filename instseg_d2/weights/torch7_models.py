"""Weights from files of Lua Torch7: of those models that one of the families here can convert."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from instseg_d2.errors import WeightsError
from instseg_d2.families import model_families
from instseg_d2.weights.torch7 import TorchObject, read_torch7

#: What a file holds (see :func:`~instseg_d2.weights.torch7.read_torch7`) -> the weights under the
#: names here and what their user must know; None for a model that it does not know. It raises
#: ``WeightsError`` for one that it knows and cannot convert.
Torch7Converter = Callable[[object], tuple[dict[str, Tensor], str] | None]


def read_torch7_weights(path: str) -> tuple[dict[str, Tensor], str]:
    """Read a file of Torch7 with a model that is known here.

    Args:
        path: an existing local file.

    Returns:
        The weights under the names here, and what their user must know.

    Raises:
        WeightsError: the file is damaged, or holds something else.
    """
    content = read_torch7(path)
    for family in model_families():
        try:
            found = family.from_torch7(content) if family.from_torch7 else None
        except WeightsError as error:
            raise WeightsError(f"{path}: {error}") from error
        if found is not None:
            return found
    known = [name for f in model_families() if f.from_torch7 for name in f.meta_architectures]
    raise WeightsError(
        f"{path} is a file of Torch7 with {_in_words(content)}. Only whole models of "
        f"{' and '.join(known)}, saved by their authors' code, are read from such files."
    )


def _in_words(content: object) -> str:
    if isinstance(content, TorchObject):
        return f"an object of {content.class_name}"
    if isinstance(content, dict):
        names = ", ".join(sorted(str(name)[:30] for name in content)[:8])
        return f"a table of {names or 'nothing'}"
    return f"a {type(content).__name__}"
