"""A data set of a user: COCO's format, category ids with gaps, images in subfolders."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import cv2

from instseg_d2.data.shapes import ShapesSpec, render_image
from instseg_d2.data.shapes_dataset import coco_segmentation

TRAIN_IDS = {3: "bolt", 17: "nut", 90: "washer"}
VAL_IDS = {8: "washer", 2: "nut", 5: "bolt"}
"""The same names under other ids, whose order is another, too."""
SPEC = ShapesSpec(num_train=8, num_val=4, image_size=64)


@dataclass(frozen=True)
class OwnFiles:
    train_json: Path
    train_images: Path
    val_json: Path
    val_images: Path

    def overrides(self) -> list[str]:
        return [
            word
            for key in ("train_json", "train_images", "val_json", "val_images")
            for word in (f"DATASETS.OWN.{key.upper()}", str(getattr(self, key)))
        ]

    def options(self) -> list[str]:
        pairs = {
            "--train-json": self.train_json,
            "--train-images": self.train_images,
            "--val-json": self.val_json,
            "--val-images": self.val_images,
        }
        return [str(word) for pair in pairs.items() for word in pair]


def write_own_data(folder: Path) -> OwnFiles:
    """``train.json``, ``val.json`` and ``images/{train,val}/{a,b}/*.png``."""
    _write_split(folder, "train", SPEC.num_train, TRAIN_IDS)
    _write_split(folder, "val", SPEC.num_val, VAL_IDS)
    images = folder / "images"
    return OwnFiles(folder / "train.json", images / "train", folder / "val.json", images / "val")


def _write_split(folder: Path, split: str, count: int, categories: dict[int, str]) -> None:
    ids = {name: number for number, name in categories.items()}
    names = sorted(ids)
    images, annotations = [], []
    for index in range(count):
        pixels, instances = render_image(SPEC, split, index)
        name = f"{'ab'[index % 2]}/{index}.png"
        path = folder / "images" / split / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), pixels[..., ::-1])
        height, width = pixels.shape[:2]
        images.append({"id": 100 + index, "file_name": name, "height": height, "width": width})
        for instance in instances:
            x, y, w, h = cv2.boundingRect(instance.mask.astype("uint8"))
            annotations.append(
                {
                    "id": 1000 + len(annotations),
                    "image_id": 100 + index,
                    "category_id": ids[names[instance.category % 3]],
                    "bbox": [x, y, w, h],
                    "area": int(instance.mask.sum()),
                    "iscrowd": int(instance.iscrowd),
                    "segmentation": coco_segmentation(instance.mask, instance.iscrowd),
                }
            )
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name in categories.items()],
    }
    (folder / f"{split}.json").write_text(json.dumps(content))
