"""Training and evaluation: Detectron2's loop with our data checks, optimisers and checkpoints."""

from .setup import register_embedded_data, setup
from .trainer import Trainer, check_test_datasets, load_dataset

__all__ = ["Trainer", "check_test_datasets", "load_dataset", "register_embedded_data", "setup"]
