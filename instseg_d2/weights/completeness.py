"""Whether what was loaded is all of a model, in words."""

from __future__ import annotations

from collections.abc import Iterable

from .report import LoadReport

MAX_EXAMPLES = 3
"""Names of tensors in a message."""


def other_model(report: LoadReport) -> str | None:
    """What is wrong where a checkpoint to go on from has more or less than the model; else None."""
    odd = [*_lost(report), *report.unexpected]
    if not odd:
        return None
    return (
        f"it is of another model: {len(odd)} tensors are in one of the two only, or have another "
        f"shape, {_examples(odd)}. Give the config that it was trained with. To start a new run "
        "from its weights, give it as MODEL.WEIGHTS and a new OUTPUT_DIR."
    )


def incompleteness(report: LoadReport, parts: Iterable[str]) -> str | None:
    """What is wrong where weights to predict with lack something of the model; else None.

    Args:
        report: of loading them.
        parts: the model's children. More tensors of one of these than it has are of another model;
            tensors beside them may be anything.
    """
    advice = "Give the config that the weights were trained with."
    if lost := _lost(report):
        return (
            f"{len(lost)} of the model's tensors are not in the file or have another shape there, "
            f"{_examples(lost)}. {advice}"
        )
    prefixes = tuple(f"{part}." for part in parts)
    if surplus := [name for name in report.unexpected if name.startswith(prefixes)]:
        return (
            f"the file has {len(surplus)} tensors that the model has no use for, "
            f"{_examples(surplus)}: it is of another model. {advice}"
        )
    return None


def _lost(report: LoadReport) -> list[str]:
    return [*report.missing, *(name for name, *_ in report.misshaped)]


def _examples(names: list[str]) -> str:
    return f"for example {', '.join(names[:MAX_EXAMPLES])}"
