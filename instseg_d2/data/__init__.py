"""Data sets: the embedded shapes, the user's own, and what is checked of any."""

from instseg_d2.data.shapes import CLASS_NAMES, ShapeInstance, ShapesSpec, render_image
from instseg_d2.data.shapes_dataset import ensure_shapes, register_shapes

__all__ = [
    "CLASS_NAMES",
    "ShapeInstance",
    "ShapesSpec",
    "ensure_shapes",
    "register_shapes",
    "render_image",
]
