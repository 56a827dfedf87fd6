"""The embedded ``shapes`` data set on disk, in COCO format, and in Detectron2's catalogs.

On first use the images of :mod:`instseg_d2.data.shapes` are written below the cache folder,
``$INSTSEG_D2_CACHE`` or else ``~/.cache/instseg_d2``::

    shapes/<digest of spec and generator version>/
        train/000001.png ...   val/000001.png ...
        annotations_train.json   annotations_val.json
        complete.json          written last: the spec, for people to read

From then on it is data like a user's own: ``load_coco_json`` reads it, category ids have a gap as
COCO's do, objects with holes are compressed RLE, crowds uncompressed RLE, all others polygons.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_util
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.data.datasets import load_coco_json
from tqdm import tqdm

from instseg_d2.data.shapes import (
    CLASS_NAMES,
    GENERATOR_VERSION,
    SPLITS,
    ShapeInstance,
    ShapesSpec,
    Split,
    render_image,
)
from instseg_d2.errors import ConfigError, DataError

CACHE_VARIABLE = "INSTSEG_D2_CACHE"

CATEGORY_IDS = (1, 2, 3, 5, 6, 8)
"""The id in the JSON of each of :data:`CLASS_NAMES`. Gaps on purpose: real data has them too."""

CLASS_COLOURS = (
    (230, 80, 70),
    (60, 130, 240),
    (70, 180, 90),
    (245, 190, 40),
    (160, 90, 210),
    (40, 190, 200),
)
"""For drawing, RGB in 0..255; no kin to the colours of the objects."""

DEFAULT_SPEC = ShapesSpec()

_MARKER = "complete.json"


# ------------------------------------------------------------------------------- segmentations


def polygons_from_mask(mask: np.ndarray) -> list[list[float]]:
    """Outline every connected part of a mask.

    Traced at eight times the resolution on the bilinearly enlarged mask, so that the outline runs
    along the edges of the pixels without their steps. Holes are filled: polygons cannot say them.

    Args:
        mask: bool (H, W).

    Returns:
        list[list[float]]: ``[x0, y0, x1, y1, ...]`` in pixels for each part, (0, 0) being the top
        left corner of the first pixel. Parts that are too thin for three corners are left out.
    """
    factor = 8
    ys, xs = np.nonzero(mask)
    top, left = int(ys.min()), int(xs.min())
    window = mask[top : ys.max() + 1, left : xs.max() + 1]
    padded = np.pad(window, 1).astype(np.float32)
    size = (padded.shape[1] * factor, padded.shape[0] * factor)
    large = cv2.resize(padded, size, interpolation=cv2.INTER_LINEAR) > 0.5
    contours, _ = cv2.findContours(large.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    polygons = []
    for contour in contours:
        corners = cv2.approxPolyDP(contour, 0.45 * factor, True)[:, 0, :]
        if len(corners) >= 3:
            points = (corners + 0.5) / factor + [left - 1, top - 1]
            points = np.clip(points, 0, mask.shape[::-1])
            polygons.append([round(float(v), 2) for v in points.reshape(-1)])
    return polygons


def _has_holes(mask: np.ndarray) -> bool:
    found = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    hierarchy = found[1]
    return hierarchy is not None and bool((hierarchy.reshape(-1, 4)[:, 3] >= 0).any())


def _compressed_rle(mask: np.ndarray) -> dict[str, Any]:
    rle = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"counts": rle["counts"].decode("ascii"), "size": [int(v) for v in rle["size"]]}


def _uncompressed_rle(mask: np.ndarray) -> dict[str, Any]:
    """Run lengths in column order, the first being of zeros."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
    if flat[0]:
        counts.insert(0, 0)
    return {"counts": counts, "size": [int(v) for v in mask.shape]}


def coco_segmentation(
    mask: np.ndarray, iscrowd: bool = False
) -> list[list[float]] | dict[str, Any]:
    """Write a mask in the form that COCO would use.

    Args:
        mask: bool (H, W), not empty.
        iscrowd: a crowd region.

    Returns:
        A crowd is an uncompressed RLE (``counts`` a list). A mask with holes, or one so small
        that polygons would cover another set of pixels (IoU under .9), is a compressed RLE
        (``counts`` a str). Every other mask is a list of polygons, one for each part.
    """
    if iscrowd:
        return _uncompressed_rle(mask)
    rle = _compressed_rle(mask)
    if _has_holes(mask):
        return rle
    polygons = polygons_from_mask(mask)
    if polygons:
        covered = mask_util.merge(mask_util.frPyObjects(polygons, *mask.shape))
        if mask_util.iou([covered], [rle], [0])[0][0] >= 0.9:
            return polygons
    return rle


# --------------------------------------------------------------------------------------- cache


def shapes_folder(spec: ShapesSpec) -> Path:
    """Where the data of ``spec`` lies or would lie; nothing is made or checked."""
    root = os.environ.get(CACHE_VARIABLE) or os.path.join("~", ".cache", "instseg_d2")
    identity = {"generator": GENERATOR_VERSION, **dataclasses.asdict(spec)}
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    return Path(root).expanduser().absolute() / "shapes" / digest


def ensure_shapes(spec: ShapesSpec) -> Path:
    """Make sure that the images and annotations of ``spec`` are on disk.

    Any number of processes may call this at once. All of them render, the first to finish puts
    its folder in place, the others drop theirs, which are equal: no lock is needed, and not all
    file systems have one. A folder that lacks its marker, an annotation file or images is made
    anew.

    Returns:
        Path: the folder, laid out as this module's docstring says.

    Raises:
        DataError: the cache folder cannot be written.
    """
    folder = shapes_folder(spec)
    if _is_complete(folder, spec):
        return folder
    try:
        _make_folder(folder, spec)
    except OSError as error:
        raise DataError(
            f"The shapes data set cannot be written to {folder}: {error}. Set the environment "
            f"variable {CACHE_VARIABLE} to a folder that can be written and has room."
        ) from error
    return folder


def _is_complete(folder: Path, spec: ShapesSpec) -> bool:
    if not (folder / _MARKER).is_file():
        return False
    for split in SPLITS:
        images = folder / split
        if not (folder / f"annotations_{split}.json").is_file() or not images.is_dir():
            return False
        if sum(entry.name.endswith(".png") for entry in os.scandir(images)) < _length(spec, split):
            return False
    return True


def _length(spec: ShapesSpec, split: Split) -> int:
    return spec.num_train if split == "train" else spec.num_val


def _make_folder(folder: Path, spec: ShapesSpec) -> None:
    """Render into a sibling folder, then rename: nobody ever sees half a data set."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f"{folder.name}.making.", dir=folder.parent))
    try:
        work = scratch / "new"  # mkdir gives it the usual permissions, mkdtemp would not
        work.mkdir()
        total = spec.num_train + spec.num_val
        with tqdm(total=total, desc="Rendering shapes", unit="image", delay=1.0) as bar:
            for split in SPLITS:
                _write_split(work, spec, split, bar)
        marker = {"generator": GENERATOR_VERSION, **dataclasses.asdict(spec)}
        (work / _MARKER).write_text(json.dumps(marker, indent=1) + "\n")
        _put_in_place(work, folder, spec)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _put_in_place(work: Path, folder: Path, spec: ShapesSpec) -> None:
    """Rename ``work`` to ``folder`` unless another process did so; damaged ones move aside."""
    for attempt in range(10):
        try:
            os.rename(work, folder)
            return
        except OSError:
            if _is_complete(folder, spec):
                return
            if attempt == 9:
                raise
        with contextlib.suppress(FileNotFoundError):  # another process has moved it
            os.rename(folder, work.with_name(f"damaged{attempt}"))


def _write_split(folder: Path, spec: ShapesSpec, split: Split, bar: tqdm) -> None:
    (folder / split).mkdir()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(_length(spec, split)):
        pixels, instances = render_image(spec, split, index)
        image_id = index + 1
        name = f"{image_id:06d}.png"
        encoded = cv2.imencode(".png", pixels[..., ::-1])[1]
        (folder / split / name).write_bytes(encoded.tobytes())
        height, width = pixels.shape[:2]
        images.append({"id": image_id, "file_name": name, "height": height, "width": width})
        annotations.extend(_annotations(instances, image_id, len(annotations) + 1))
        bar.update()
    categories = [
        {"id": category_id, "name": name, "supercategory": "shape"}
        for category_id, name in zip(CATEGORY_IDS, CLASS_NAMES, strict=True)
    ]
    content = {
        "info": {"description": f"instseg-d2 shapes, {split}", "version": GENERATOR_VERSION},
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }
    text = json.dumps(content, separators=(",", ":"))
    (folder / f"annotations_{split}.json").write_text(text)


def _annotations(
    instances: Iterable[ShapeInstance], image_id: int, first_id: int
) -> list[dict[str, Any]]:
    """COCO annotations of one image; ``bbox`` is (x, y, width, height) of the mask's pixels."""
    annotations = []
    for annotation_id, instance in enumerate(instances, first_id):
        ys, xs = np.nonzero(instance.mask)
        x, y = int(xs.min()), int(ys.min())
        annotations.append(
            {
                "id": annotation_id,
                "image_id": image_id,
                "category_id": CATEGORY_IDS[instance.category],
                "bbox": [x, y, int(xs.max()) + 1 - x, int(ys.max()) + 1 - y],
                "area": int(instance.mask.sum()),
                "iscrowd": int(instance.iscrowd),
                "segmentation": coco_segmentation(instance.mask, instance.iscrowd),
            }
        )
    return annotations


# ---------------------------------------------------------------------------------- Detectron2


class ShapesMetadata(Metadata):
    """Metadata whose ``json_file`` and images are made when that path is first asked for.

    ``COCOEvaluator`` opens ``metadata.json_file`` in its constructor, maybe before anybody loaded
    the data. With a plain attribute it would fail on a machine where nothing was rendered yet.
    """

    def __init__(self, name: str, spec: ShapesSpec, split: Split) -> None:
        super().__init__(name=name)
        self.spec = spec
        self.split = split
        self.evaluator_type = "coco"
        self.thing_classes = list(CLASS_NAMES)
        self.thing_colors = list(CLASS_COLOURS)
        self.thing_dataset_id_to_contiguous_id = {c: i for i, c in enumerate(CATEGORY_IDS)}

    @property
    def json_file(self) -> str:
        """The annotation file, which exists on return.

        Raises:
            DataError: the cache folder cannot be written.
        """
        return str(ensure_shapes(self.spec) / f"annotations_{self.split}.json")

    @property
    def image_root(self) -> str:
        """The folder of the images, whether it exists or not."""
        return str(shapes_folder(self.spec) / self.split)


def register_shapes(spec: ShapesSpec = DEFAULT_SPEC, prefix: str = "shapes") -> tuple[str, str]:
    """Register ``{prefix}_train`` and ``{prefix}_val`` with Detectron2.

    Nothing is drawn until the data, or the path of its annotations, is asked for. A second call
    with the same prefix replaces the first.

    Args:
        spec: number, size and seed of the images.
        prefix: to be changed where several specs are used side by side.

    Returns:
        tuple: both names.

    Raises:
        ConfigError: the name belongs to another data set.
    """
    names = f"{prefix}_train", f"{prefix}_val"
    for name in names:
        known = MetadataCatalog.get(name) if name in MetadataCatalog.list() else None
        if name in DatasetCatalog.list() and not isinstance(known, ShapesMetadata):
            raise ConfigError(
                f"A data set named {name!r} is registered already and is not one of shapes. "
                "Choose another prefix."
            )
    for name, split in zip(names, SPLITS, strict=True):
        metadata = ShapesMetadata(name, spec, split)
        MetadataCatalog[name] = metadata
        DatasetCatalog.pop(name, None)
        DatasetCatalog.register(name, partial(_load, metadata))
    return names


def _load(metadata: ShapesMetadata) -> list[dict[str, Any]]:
    return load_coco_json(metadata.json_file, metadata.image_root, metadata.name)
