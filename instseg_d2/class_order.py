"""Which class a model's numbers mean: names in order, kept in checkpoints.

Data sets number their classes by rising category id. Two files with the same classes under other
ids number them otherwise, and nothing in the weights would tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from .errors import short_repr
from .families import classes_key_of

CLASSES_KEY = "classes"
"""Of a checkpoint: names of the classes that it was trained on, in order."""


def class_names(cfg: CfgNode, datasets: Sequence[str]) -> list[str] | None:
    """The classes of the first of these data sets, in order.

    Args:
        datasets: registered names; loaded, where only loading tells the classes.

    Returns:
        None for class-agnostic models, and where the data set states none.
    """
    if not datasets or classes_key_of(cfg) is None:
        return None
    names = MetadataCatalog.get(datasets[0]).get("thing_classes")
    return None if names is None else [str(name) for name in names]


def names_in(value: Any) -> list[str] | None:
    """What a file has as its classes; None if that is no list of names."""
    is_list = isinstance(value, list) and all(isinstance(name, str) for name in value)
    return value if is_list else None


def order_problem(of_file: list[str] | None, of_data: list[str] | None) -> str | None:
    """What is wrong where both have the same names in another order; else None.

    Other names are no problem: data may name the same classes otherwise.
    """
    if of_file is None or of_data is None or of_file == of_data:
        return None
    if sorted(of_file) != sorted(of_data):
        return None
    place = next(i for i, name in enumerate(of_file) if name != of_data[i])
    return (
        f"it was trained with the classes in another order: class {place} is "
        f"{short_repr(of_file[place])} there, and {short_repr(of_data[place])} in the data. Own "
        f'data takes its order with DATASETS.OWN.CLASSES "{tuple(of_file)}"; other data must be '
        "registered with it."
    )
