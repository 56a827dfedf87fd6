import json
from collections.abc import Callable
from pathlib import Path

import pytest
from detectron2.data.datasets import register_coco_instances
from PIL import Image

from tests.checked_data import NAME


@pytest.fixture
def register(tmp_path: Path, clean_catalogs: None) -> Callable[..., str]:
    """Write a COCO file (any text, or None for no file) and images; register and name them."""

    def register(content, name=NAME, images=("a.png", "b.png")):
        path = tmp_path / "annotations.json"
        if content is not None:
            path.write_text(content if isinstance(content, str) else json.dumps(content))
        (tmp_path / "images").mkdir()
        for image in images:
            Image.new("RGB", (12, 10)).save(tmp_path / "images" / image)
        register_coco_instances(name, {}, str(path), str(tmp_path / "images"))
        return name

    return register
