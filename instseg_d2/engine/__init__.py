"""Training and evaluation: Detectron2's loop with our data checks, optimisers and checkpoints."""

from .setup import register_embedded_data, setup
from .trainer import Trainer

__all__ = ["Trainer", "register_embedded_data", "setup"]
