"""The data sets that a config describes: the embedded ones, and the user's own."""

import re

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.catalog import Metadata

from ..errors import ConfigError
from .own import register_own_names
from .shapes import ShapesSpec
from .shapes_dataset import register_shapes


def register_config_datasets(cfg: CfgNode) -> None:
    """Register ``shapes_train`` and ``shapes_val`` as ``DATASETS.SHAPES`` describes them, and
    ``own_train`` and ``own_val`` if ``DATASETS.OWN`` names files.

    Nothing is drawn or read before the data is asked for.

    Raises:
        ConfigError: a value is out of range.
    """
    node = cfg.DATASETS.SHAPES
    try:
        spec = ShapesSpec(
            num_train=node.NUM_TRAIN,
            num_val=node.NUM_VAL,
            image_size=node.IMAGE_SIZE,
            seed=node.SEED,
        )
    except ConfigError as error:  # names a field; the user knows the key
        field = re.compile(r"ShapesSpec\.(\w+)")
        text = field.sub(lambda found: f"DATASETS.SHAPES.{found[1].upper()}", str(error))
        raise ConfigError(text) from error
    register_shapes(spec)
    register_own_names(cfg)


def drawing_metadata(cfg: CfgNode) -> Metadata | None:
    """The metadata of the first of ``DATASETS.TEST``, else of ``DATASETS.TRAIN``, for drawing; None
    if both are empty."""
    names = (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN)
    return MetadataCatalog.get(names[0]) if names else None
