"""Whether the weights that were loaded are a start for training SharpMask.

What a file lacks keeps its random values. Where it is frozen it would keep them for ever, and where
it is not, training from half of another network looks like training and is none.
"""

from __future__ import annotations

import logging
from urllib.parse import urlparse

from detectron2.utils.file_io import PathManager

from instseg_d2.errors import WeightsError
from instseg_d2.weights.describe import describe_weights
from instseg_d2.weights.file import read_weights_file
from instseg_d2.weights.formats import recognise_native, to_native_names
from instseg_d2.weights.matching import without_wrapper
from instseg_d2.weights.report import LoadReport

#: What the names of a model's parts begin with.
BACKBONE, HEAD, REFINEMENT = "backbone.", "head.", "refinement."
#: How many tensors of each kind a message shows.
MAX_EXAMPLES = 3

_FROZEN = (
    "MODEL.SHARP_MASK.FREEZE_FEEDFORWARD trains the refinement on top of a trained DeepMask: train "
    "one first (configs/sharpmask/deepmask_r50.yaml), with the backbone, WINDOW_SIZE, TRUNK and "
    "HEAD of this config, and give its model_final.pth as MODEL.WEIGHTS."
)
_FREE = (
    "Training all of SharpMask starts from a DeepMask or SharpMask with the WINDOW_SIZE, TRUNK and "
    "HEAD of this config, from a backbone alone (such as ImageNet weights), or with "
    "MODEL.WEIGHTS '' from random values."
)

logger = logging.getLogger(__name__)


def check_start(report: LoadReport | None, weights: str, head: str, *, frozen: bool) -> None:
    """See that training may start from what was loaded.

    With nothing frozen a backbone alone, or nothing at all, is a start, too; a warning says so.

    Args:
        report: of the loading; None if nothing was loaded.
        weights: the file: ``MODEL.WEIGHTS``, or the checkpoint that is resumed from.
        head: what the model is, in words.
        frozen: backbone and head are.

    Raises:
        WeightsError: it may not; the message says what the file is of.
    """
    advice = _FROZEN if frozen else _FREE
    if report is None:
        if frozen:
            raise WeightsError(f"MODEL.WEIGHTS is empty. {advice}")
        logger.warning("MODEL.WEIGHTS is empty: all of SharpMask starts from random values")
        return
    problems = _problems(report, (BACKBONE, HEAD) if frozen else (HEAD,))
    if problems and not frozen and _is_backbone_alone(report):
        logger.warning("The weights are of a backbone: head and refinement start at random values")
        return
    if problems:
        raise WeightsError(
            f"The loaded weights are not of this DeepMask ({head}): {problems}. "
            f"{_origin(weights)} {advice}"
        )
    _check_refinement(report, weights)


def _check_refinement(report: LoadReport, weights: str) -> None:
    """See that the file has the whole refinement, or nothing of it."""
    problems = _problems(report, (REFINEMENT,))
    found = [*report.matched, *(name for name, *_ in report.misshaped)]
    if not problems or not any(name.startswith(REFINEMENT) for name in found):
        return
    surplus = [name for name in report.unexpected if name.startswith(REFINEMENT)]
    advice = (
        "Give FORM, LAYOUT, SCHEDULE, CHANNELS and HORIZONTAL_CHANNELS as the file was trained "
        "with, or the file of a DeepMask to begin with a new refinement."
    )
    if any(".mix." in name for name in surplus):
        advice += (
            " The file is of FORM original: `python tools/convert_checkpoint.py` makes one of FORM "
            "refactored of it, which is the same function."
        )
    elif any(".skip_out." in name for name in surplus):
        advice += " The file is of FORM refactored, which is the same function as original."
    raise WeightsError(
        "The refinement in the loaded weights is another than MODEL.SHARP_MASK.REFINEMENT "
        f"describes: {problems}. {_origin(weights)} {advice}"
    )


def _problems(report: LoadReport, parts: tuple[str, ...]) -> str:
    """How some parts in the file differ from those of the model, in words; empty if not at all."""
    missing = [name for name in report.missing if name.startswith(parts)]
    surplus = [name for name in report.unexpected if name.startswith(parts)]
    shapes = [
        f"{name} {theirs} -> {ours}"
        for name, theirs, ours in report.misshaped
        if name.startswith(parts)
    ]
    kinds = (
        ("{} of its tensors are absent", missing),
        ("{} have another shape than here", shapes),
        ("{} are left over", surplus),
    )
    return "; ".join(
        f"{text.format(len(found))} ({_examples(found)})" for text, found in kinds if found
    )


def _examples(entries: list[str]) -> str:
    return ", ".join(entries[:MAX_EXAMPLES]) + (", ..." if len(entries) > MAX_EXAMPLES else "")


def _is_backbone_alone(report: LoadReport) -> bool:
    """Whether the file has nothing else, but perhaps stages that the model lacks and a
    classifier."""
    found = [*report.matched, *(name for name, *_ in report.misshaped)]
    if not all(name.startswith(BACKBONE) for name in found):
        return False
    # Matched by their ends, the tensors that are left over have no prefix.
    names = [*found, *report.unexpected]
    if all(name.startswith(BACKBONE) for name in names):
        return True
    return bool(recognise_native(name.removeprefix(BACKBONE) for name in names))


def _origin(weights: str) -> str:
    """A sentence on the file, with what it is of where that can be told."""
    path = urlparse(weights)._replace(query="").geturl()
    try:
        state = read_weights_file(PathManager.get_local_path(path))["model"]
    except (WeightsError, OSError) as error:  # gone since, or read only if it is trusted
        logger.debug("%s is not described: %s", weights, error)
        return f"They are from {weights}."
    return f"{weights} is of {describe_weights(to_native_names(without_wrapper(state))[0])}."
