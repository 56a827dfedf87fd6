"""Training and evaluation: Detectron2's loop with our data checks, optimisers and checkpoints."""

from .datasets import check_test_datasets, load_dataset, training_dicts
from .setup import setup
from .trainer import Trainer

__all__ = ["Trainer", "check_test_datasets", "load_dataset", "setup", "training_dicts"]
