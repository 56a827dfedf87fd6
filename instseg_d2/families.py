"""What the shared engine must know of a model family, and which families there are.

The model packages depend on this package, never the other way round; this module finds them by name
at run time.
"""

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from detectron2.config import CfgNode
from detectron2.data.catalog import Metadata
from detectron2.evaluation import DatasetEvaluator
from torch import nn

from .recipe import Recipe

if TYPE_CHECKING:
    import numpy as np

    from .export.parts import GraphFiles
    from .export.settings import ExportBuilder, ExportSettings
    from .weights.convert.namings import Naming
    from .weights.torch7_models import Torch7Converter

#: Importing one registers its modules with Detectron2; each has a constant ``FAMILY``.
FAMILY_PACKAGES = ("sparseinst_d2", "sharpmask_d2")

#: Of Detectron2's own architectures: the key of the number of classes.
DETECTRON2_CLASSES_KEYS = {
    "GeneralizedRCNN": "MODEL.ROI_HEADS.NUM_CLASSES",
    "RetinaNet": "MODEL.RETINANET.NUM_CLASSES",
}

#: What the loader gives, a data set dict of Detectron2 unless the family builds its own loaders ->
#: the dict that the model reads.
DatasetMapper = Callable[[dict[str, Any]], dict[str, Any]]

#: (cfg, checked data set dicts) -> batches.
LoaderBuilder = Callable[[CfgNode, list[dict[str, Any]]], Iterable[list[dict[str, Any]]]]


#: (model in eval mode, training batch, order of the images' channels, metadata with the classes'
#: names) -> pictures by name, uint8 RGB (H, W, 3).
BatchPictures = Callable[
    [nn.Module, list[dict[str, Any]], str, Metadata | None], "dict[str, np.ndarray]"
]


#: (cfg, trained model in eval mode on the CPU, what is wanted, the config's name) -> its graphs.
ExportPartsBuilder = Callable[[CfgNode, nn.Module, "ExportSettings", str], "GraphFiles"]


@dataclass(frozen=True)
class ModelFamily:
    """One model family.

    Attributes:
        meta_architectures: values of ``MODEL.META_ARCHITECTURE`` that belong to it.
        add_config: adds its config keys, in place.
        build_mapper: (cfg, is_train) -> the data set mapper.
        classes_key: config key of the number of classes; None for class-agnostic models. Their
            loaders pass over objects without a mask. They train on data sets with different classes
            at once; a key ``vocabulary`` (int) of the dicts then tells the category ids apart.
        max_instances_key: config key of the most instances in one image; None for no limit.
        recipes: value of ``MODEL.META_ARCHITECTURE`` -> what the published models of it were
            trained with.
        batch_unit: what a batch is of, in the plural, for people.
        build_train_loader: for families whose batches are not of whole images; None: Detectron2's
            loader with the mapper.
        build_test_loader: likewise. It raises ``DataError`` for data that cannot be evaluated on;
            so that a training learns of it at its start, it is called there once in vain.
        build_evaluator: (cfg, data set's name) -> evaluator; None: the one that fits the data set.
        known_metrics: cfg -> all numbers that this evaluator may give, as "task/metric"; None: not
            known.
        reads_annotation_file: cfg -> whether that evaluator reads the data set's COCO annotation
            file, which is then checked before.
        draw_batch: what TensorBoard shows every ``VIS_PERIOD`` iterations.
        prepare_eval_only: changes, in place, a config that is to be evaluated with and not trained.
        namings: of whole models in other software, for the conversion of checkpoints.
        from_torch7: converts whole models that Lua Torch7 saved.
        build_export: makes of a model what ``tools/export.py`` exports; None: nothing does.
        build_export_parts: likewise, for models that are exported as several graphs.
    """

    meta_architectures: tuple[str, ...]
    add_config: Callable[[CfgNode], None]
    build_mapper: Callable[[CfgNode, bool], DatasetMapper]
    classes_key: str | None = None
    max_instances_key: str | None = None
    recipes: Mapping[str, Recipe] = field(default_factory=dict)
    batch_unit: str = "images"
    build_train_loader: LoaderBuilder | None = None
    build_test_loader: LoaderBuilder | None = None
    build_evaluator: Callable[[CfgNode, str], DatasetEvaluator] | None = None
    known_metrics: Callable[[CfgNode], Iterable[str]] | None = None
    reads_annotation_file: Callable[[CfgNode], bool] = lambda cfg: True
    draw_batch: BatchPictures | None = None
    prepare_eval_only: Callable[[CfgNode], None] = lambda cfg: None
    namings: tuple["Naming", ...] = ()
    from_torch7: "Torch7Converter | None" = None
    build_export: "ExportBuilder | None" = None
    build_export_parts: ExportPartsBuilder | None = None


@cache
def model_families() -> tuple[ModelFamily, ...]:
    """All families; their packages are imported on the first call."""
    return tuple(importlib.import_module(name).FAMILY for name in FAMILY_PACKAGES)


def family_of(cfg: CfgNode) -> ModelFamily | None:
    """The family of ``MODEL.META_ARCHITECTURE``; None for Detectron2's own architectures."""
    name = cfg.MODEL.META_ARCHITECTURE
    for family in model_families():
        if name in family.meta_architectures:
            return family
    return None


def classes_key_of(cfg: CfgNode) -> str | None:
    """The config key of the model's number of classes; None if it is class-agnostic."""
    family = family_of(cfg)
    if family is None:
        return DETECTRON2_CLASSES_KEYS.get(cfg.MODEL.META_ARCHITECTURE)
    return family.classes_key


def config_value(cfg: CfgNode, key: str) -> Any:
    """The value at a dotted key: ``config_value(cfg, "SOLVER.BASE_LR")``."""
    node = cfg
    for part in key.split("."):
        node = node[part]
    return node


def set_config_value(cfg: CfgNode, key: str, value: Any) -> None:
    """Set the value at a dotted key, in place."""
    node, _, name = key.rpartition(".")
    (config_value(cfg, node) if node else cfg)[name] = value
