"""Makes a trained model fast: what can be done once its weights no longer change."""

from .options import InferenceOptions
from .prepare import prepare_for_inference
from .static_part import StaticPart

__all__ = ["InferenceOptions", "StaticPart", "prepare_for_inference"]
