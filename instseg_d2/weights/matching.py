"""From the names in a weights file to the names in the model."""

from __future__ import annotations

import logging

from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts

from instseg_d2.errors import WeightsError
from instseg_d2.weights.file import StateDict
from instseg_d2.weights.formats import names_in_box_head, rename, to_native_names

WRAPPER = "module."
"""What all names begin with in a model that was saved while wrapped for several GPUs."""

FPN_TRUNK = "bottom_up"
"""Within Detectron2's feature pyramids the backbone proper has this name."""

logger = logging.getLogger(__name__)


def match_names(
    file_state: StateDict, model_state: StateDict, *, heuristics: bool, caffe2: bool, backbone: str
) -> StateDict:
    """Rename the tensors of a file to the names in the model.

    Args:
        file_state: the weights in the file.
        model_state: the model's ``state_dict()``.
        heuristics: match names by their ends, as Detectron2 does for files that ask for it, those
            of an ImageNet file of torchvision, timm and others after translation. Without it names
            are taken as they are, or for the names within the backbone (or the trunk of its feature
            pyramid), or for those of an ImageNet file, whichever finds most in the model.
        caffe2: the names are those of Caffe2.
        backbone: name of the backbone within the model.

    Returns:
        The tensors under their new names. Those without a partner may keep their old ones. Layers
        of an ImageNet classifier go to the box head that is made of them, if the model has one.

    Raises:
        WeightsError: with heuristics, one tensor of the file fits several in the model.
    """
    if heuristics:
        native, format_name = to_native_names(file_state)
        if format_name is not None:
            logger.info("The weights have the names of a %s", format_name)
        box_head = _box_head(native, model_state)
        native = {box_head.get(name, name): value for name, value in native.items()}
        try:
            renamed: StateDict = align_and_update_state_dicts(
                model_state, native, c2_conversion=caffe2
            )
        except ValueError as error:
            raise WeightsError(
                f"the names in the file are ambiguous for this model ({error}): the file is "
                "probably for another kind of model"
            ) from error
        return renamed
    file_state = without_wrapper(file_state)
    native, format_name = to_native_names(file_state)
    trunks = (backbone, f"{backbone}.{FPN_TRUNK}")
    # Of equals max takes the first: a file is not renamed without need.
    best, is_native = max(
        (
            (file_state, False),
            *((_placed(file_state, model_state, trunk), False) for trunk in trunks),
            *((_placed(native, model_state, trunk), True) for trunk in trunks),
        ),
        key=lambda candidate: len(model_state.keys() & candidate[0].keys()),
    )
    if is_native:
        logger.info("The weights have the names of a %s", format_name)
    return best


def _placed(state: StateDict, model_state: StateDict, trunk: str) -> StateDict:
    """The tensors of a backbone under the names that they have in the model."""
    box_head = _box_head(state, model_state)
    return {box_head.get(name, f"{trunk}.{name}"): value for name, value in state.items()}


def _box_head(state: StateDict, model_state: StateDict) -> dict[str, str]:
    """{name in the classifier: name in the model}, of layers that the model's box head has."""
    names = names_in_box_head(state)
    return {name: in_model for name, in_model in names.items() if in_model in model_state}


def without_wrapper(state: StateDict) -> StateDict:
    """The weights without :data:`WRAPPER` before their names; ``state`` itself where not all have
    it."""
    if not state or not all(name.startswith(WRAPPER) for name in state):
        return state
    return rename(state, lambda name: name.removeprefix(WRAPPER))
