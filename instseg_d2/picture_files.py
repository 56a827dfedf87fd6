"""Writing pictures."""

from __future__ import annotations

import numpy as np
from PIL import Image

from .atomic_file import written_whole


def save_picture(path: str, picture: np.ndarray) -> None:
    """Write a uint8 RGB picture whole or not at all; PNG if the path ends so, else JPEG."""
    with written_whole(path) as file:
        if path.lower().endswith(".png"):
            Image.fromarray(picture).save(file, format="PNG")
        else:
            Image.fromarray(picture).save(file, format="JPEG", quality=92)
