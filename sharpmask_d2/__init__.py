"""DeepMask and SharpMask on Detectron2: segment proposals with top-down refinement.

DeepMask (arXiv 1506.06204) predicts for a window the mask of the object centred in it and how
likely there is one; SharpMask (arXiv 1603.08695) refines that mask.
"""

from dataclasses import replace

from instseg_d2.families import ModelFamily
from instseg_d2.recipe import Recipe
from instseg_d2.weights.convert.namings import Naming

from . import backbones, fair_names, port_names, refinement
from .config import add_sharpmask_config
from .dataset_mapper import PatchMapper, build_mapper, build_train_loader
from .deepmask import DeepMask
from .evaluation import (
    build_evaluator,
    build_test_loader,
    evaluates_proposals,
    known_metrics,
    prepare_eval_only,
)
from .export import build_export_parts
from .patch_evaluation import PatchEvaluator
from .proposal_evaluation import ProposalEvaluator
from .sharpmask import SharpMask
from .training_pictures import draw_batch

__all__ = [
    "FAMILY",
    "DeepMask",
    "PatchEvaluator",
    "PatchMapper",
    "ProposalEvaluator",
    "SharpMask",
    "add_sharpmask_config",
]

# FAIR's schedules: epochs of 4000 steps.
_DEEPMASK = Recipe(32, 0.001, max_iter=1_200_000, steps=(200_000, 480_000), optimizer="SGD")
_SHARPMASK = replace(_DEEPMASK, steps=(200_000, 320_000))

FAMILY = ModelFamily(
    meta_architectures=("DeepMask", "SharpMask"),
    add_config=add_sharpmask_config,
    build_mapper=build_mapper,
    recipes={"DeepMask": _DEEPMASK, "SharpMask": _SHARPMASK},
    batch_unit="patches",
    build_train_loader=build_train_loader,
    build_test_loader=build_test_loader,
    build_evaluator=build_evaluator,
    known_metrics=known_metrics,
    draw_batch=draw_batch,
    reads_annotation_file=evaluates_proposals,
    prepare_eval_only=prepare_eval_only,
    from_torch7=fair_names.from_torch7,
    build_export_parts=build_export_parts,
    namings=(
        Naming(
            "DeepMask or SharpMask of the PyTorch port",
            port_names.recognises,
            port_names.from_port,
            advice="its networks are those of sharpmask/deepmask_r50_port and sharpmask_r50_port",
        ),
        Naming(
            "a whole SharpMask with the refinement's FORM original",
            refinement.has_original_form,
            refinement.refactored_state,
            advice="the weights are now of MODEL.SHARP_MASK.REFINEMENT.FORM refactored, which is "
            "the same function",
        ),
    ),
)
