"""SparseInst: real-time, NMS-free instance segmentation (arXiv 2203.12827) on Detectron2."""

from instseg_d2.families import ModelFamily
from instseg_d2.layers.deform_conv import replace_detectron2_deform_conv
from instseg_d2.recipe import Recipe

from . import backbones
from .config import add_sparseinst_config
from .criterion import SparseInstCriterion
from .dataset_mapper import SparseInstDatasetMapper, build_mapper
from .decoder import BaseIAMDecoder, GroupIAMDecoder, GroupIAMSoftDecoder
from .encoder import InstanceContextEncoder
from .export import build_export
from .matcher import SparseInstMatcher
from .sparseinst import SparseInst
from .training_pictures import draw_batch

__all__ = [
    "FAMILY",
    "BaseIAMDecoder",
    "GroupIAMDecoder",
    "GroupIAMSoftDecoder",
    "InstanceContextEncoder",
    "SparseInst",
    "SparseInstCriterion",
    "SparseInstDatasetMapper",
    "SparseInstMatcher",
    "add_sparseinst_config",
]

# The published models with deformable blocks in Detectron2's ResNet would not build otherwise.
replace_detectron2_deform_conv()

FAMILY = ModelFamily(
    meta_architectures=("SparseInst",),
    add_config=add_sparseinst_config,
    build_mapper=build_mapper,
    classes_key="MODEL.SPARSE_INST.DECODER.NUM_CLASSES",
    max_instances_key="MODEL.SPARSE_INST.DECODER.NUM_MASKS",
    draw_batch=draw_batch,
    recipes={
        "SparseInst": Recipe(
            ims_per_batch=64,
            base_lr=5e-5,
            max_iter=270_000,
            steps=(210_000, 250_000),
            warmup_iters=1000,
            optimizer="ADAMW",
        )
    },
    build_export=build_export,
)
