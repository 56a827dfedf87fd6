"""The embedded data sets as a config describes them."""

from detectron2.config import CfgNode

from .shapes import ShapesSpec
from .shapes_dataset import register_shapes


def register_embedded_data(cfg: CfgNode) -> None:
    """Register ``shapes_train`` and ``shapes_val`` as ``DATASETS.SHAPES`` describes them.

    Nothing is drawn before the data is asked for.

    Raises:
        ConfigError: a value is out of range.
    """
    node = cfg.DATASETS.SHAPES
    register_shapes(
        ShapesSpec(
            num_train=node.NUM_TRAIN,
            num_val=node.NUM_VAL,
            image_size=node.IMAGE_SIZE,
            seed=node.SEED,
        )
    )
