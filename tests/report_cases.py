"""Results made from the annotations of a data set, with errors of every kind, for reports."""

from __future__ import annotations

from typing import Any

import numpy as np
import pycocotools.mask as mask_util

from instseg_d2.rle_masks import segmentation_rle

Entry = dict[str, Any]


def jittered_results(
    content: dict[str, Any], generator: np.random.Generator, *, extra: int = 2
) -> list[Entry]:
    """Detections: of ten objects, one is missed, one has another class, the others are shifted a
    little, some twice; and ``extra`` false ones in every image, with low scores."""
    category_ids = [category["id"] for category in content["categories"]]
    images = {image["id"]: image for image in content["images"]}
    results = []
    for annotation in content["annotations"]:
        if annotation.get("iscrowd") or generator.random() < 0.1:
            continue
        image = images[annotation["image_id"]]
        size = image["height"], image["width"]
        mask = mask_util.decode(segmentation_rle(annotation["segmentation"], *size))
        for _ in range(1 + (generator.random() < 0.1)):
            shift = generator.normal(0, 0.03 * np.sqrt(annotation["area"]), 2).round().astype(int)
            category = annotation["category_id"]
            if generator.random() < 0.1:
                category = int(generator.choice(category_ids))
            score = float(generator.beta(5, 2))
            results.append(_result(image, category, shifted(mask, *shift), score))
    for image in content["images"]:
        for _ in range(extra):
            top, left = (generator.random(2) * 0.8 * (image["height"], image["width"])).astype(int)
            mask = np.zeros((image["height"], image["width"]), np.uint8)
            mask[top : top + 1 + image["height"] // 8, left : left + 1 + image["width"] // 8] = 1
            category = int(generator.choice(category_ids))
            results.append(_result(image, category, mask, float(generator.beta(2, 6))))
    return results


def shifted(mask: np.ndarray, down: int, right: int) -> np.ndarray:
    """A mask moved by some pixels; what leaves the image is lost."""
    height, width = mask.shape
    moved = np.zeros_like(mask)
    moved[max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)] = mask[
        max(-down, 0) : height - max(down, 0), max(-right, 0) : width - max(right, 0)
    ]
    return moved


def _result(image: Entry, category: int, mask: np.ndarray, score: float) -> Entry:
    rle = mask_util.encode(np.asfortranarray(mask))
    return {
        "image_id": image["id"],
        "category_id": category,
        "score": score,
        "bbox": mask_util.toBbox(rle).tolist(),
        "segmentation": {"size": list(rle["size"]), "counts": rle["counts"].decode()},
    }


def square_case() -> tuple[dict[str, Any], list[Entry]]:
    """Two images of 100 x 80 pixels, three classes, and one detection of each outcome:

    ==========  ======================================  =====
    image       detection                               score
    ==========  ======================================  =====
    1 (cat A,   cat on A, IoU 1                         .9
    dog B)      cat on A again: duplicate               .8
                cat on B: wrong class                   .7
                cat in the empty corner: background     .6
    2 (cat C,   cat on C, IoU 1/3: poor mask            .5
    crowd of    dog in the crowd: ignored               .4
    dogs)
    ==========  ======================================  =====

    B and C are missed. There is no object of the class "unseen".
    """
    images = [{"id": i, "width": 100, "height": 80, "file_name": f"{i}.png"} for i in (1, 2)]
    categories = [{"id": 4, "name": "cat"}, {"id": 9, "name": "dog"}, {"id": 11, "name": "unseen"}]

    def box(left: int, top: int, side: int = 20) -> np.ndarray:
        mask = np.zeros((80, 100), np.uint8)
        mask[top : top + side, left : left + side] = 1
        return mask

    def annotation(number: int, image: int, category: int, mask: np.ndarray, **more: Any) -> Entry:
        entry = _result(images[image - 1], category, mask, 0.0)
        del entry["score"]
        return {"id": number, "area": int(mask.sum()), "iscrowd": 0, **entry, **more}

    annotations = [
        annotation(1, 1, 4, box(0, 0)),
        annotation(2, 1, 9, box(50, 0)),
        annotation(3, 2, 4, box(0, 0)),
        annotation(4, 2, 9, box(40, 20, 50), iscrowd=1),
    ]
    results = [
        _result(images[0], 4, box(0, 0), 0.9),
        _result(images[0], 4, box(0, 0), 0.8),
        _result(images[0], 4, box(50, 0), 0.7),
        _result(images[0], 4, box(80, 60), 0.6),
        _result(images[1], 4, box(10, 0), 0.5),
        _result(images[1], 9, box(50, 30), 0.4),
    ]
    return {"images": images, "categories": categories, "annotations": annotations}, results
