"""Readers of files from outside, each with valid files to damage.

A target takes the folder to write in and a random generator, makes one damaged file and reads it.
It may raise a ``UserError``, and nothing else. What a reader accepts is used as the programs use
it, so that a check that lets something dangerous through ends the process.
"""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import safetensors.torch
import torch
from PIL import Image

from instseg_d2.config import load_config
from instseg_d2.data.annotation_checks import instance_problem
from instseg_d2.data.coco_json import check_coco_json, read_coco_json
from instseg_d2.data.image_reading import read_image
from instseg_d2.data.proposal_checks import check_proposals
from instseg_d2.data.rle_batch import rles_problem
from instseg_d2.data.segmentation_checks import rle_problem
from instseg_d2.errors import DataError, WeightsError
from instseg_d2.weights.file import read_weights_file
from instseg_d2.weights.torch7 import read_torch7
from tests.coco_sample import coco
from tests.fuzz_mutations import (
    mutated,
    mutated_json,
    mutated_pickle,
    mutated_safetensors,
    mutated_zip,
    pick,
    spliced,
)
from tests.proposal_samples import records, sample, write
from tests.torch7_writer import Storage, Tensor, torch7_bytes

Generator = np.random.Generator
Target = Callable[[Path, Generator], None]

_MASK = np.zeros((10, 12), np.uint8)
_MASK[2:7, 3:9] = 1
RLE = {"size": [10, 12], "counts": mask_util.encode(np.asfortranarray(_MASK))["counts"].decode()}
RUNS = {"size": [10, 12], "counts": [20, 50, 50]}


def annotations(folder: Path, generator: Generator) -> None:
    content = coco()
    content["annotations"][1]["segmentation"] = RLE
    path = folder / "a.json"
    path.write_bytes(mutated_json(content, generator))
    check_coco_json(str(path), pick(generator, ("loading", "training")))
    check_coco_json(str(path), "evaluation")
    content = read_coco_json(str(path))
    sizes = {
        image["id"]: (int(image["height"]), int(image["width"])) for image in content["images"]
    }
    for annotation in content.get("annotations", ()):
        size = sizes.get(annotation["image_id"])
        if size is not None:
            instance_problem({**annotation, "category_id": 0}, *size, 6)
            _draw(annotation["segmentation"], size)


def _draw(segmentation: Any, size: tuple[int, int]) -> None:
    """As COCO's evaluation does."""
    if isinstance(segmentation, list):
        code = mask_util.merge(mask_util.frPyObjects(segmentation, *size))
    elif isinstance(segmentation["counts"], list):
        code = mask_util.frPyObjects(segmentation, *size)
    else:
        code = segmentation
    mask_util.area(code)
    mask_util.toBbox(code)
    if size[0] * size[1] < 1e6:
        mask_util.decode(code)


def codes(folder: Path, generator: Generator) -> None:
    text = mutated_json(pick(generator, (RLE, RUNS)), generator).decode(errors="replace")
    try:
        code = json.loads(text)
    except (ValueError, RecursionError):
        return
    problem = rles_problem([RLE, code])
    if problem is None:
        mask_util.decode(code)
    elif isinstance(code, dict):
        problem = rle_problem(code, 10, 12)
    if problem is not None:
        raise DataError(problem)
    _draw(code, (10, 12))


def proposal_list(folder: Path, generator: Generator) -> None:
    content = json.loads(Path(_valid(folder)["proposals.json"]).read_bytes())
    path = folder / "a.json"
    path.write_bytes(mutated_json(content, generator))
    check_proposals(path, records(1, 2))


def proposal_pickle(folder: Path, generator: Generator) -> None:
    raw = Path(_valid(folder)["proposals.pkl"]).read_bytes()
    path = folder / "a.pkl"
    path.write_bytes(pick(generator, (mutated, mutated_pickle))(raw, generator))
    check_proposals(path, records(1, 2))


def array_pickle(folder: Path, generator: Generator) -> None:
    content = {
        "model": {"a.w": np.ones((2, 3), np.float32), "a.b": np.ones(3)},
        "x": [1, ("y",)],
    }
    raw = pickle.dumps(content, int(generator.integers(6)))
    _weights(folder / "a.pkl", pick(generator, (mutated, mutated_pickle))(raw, generator))


def torch_zip(folder: Path, generator: Generator) -> None:
    raw = Path(_valid(folder)["weights.pth"]).read_bytes()
    _weights(folder / "a.pth", pick(generator, (mutated, mutated_zip, mutated_zip))(raw, generator))


def torch_old(folder: Path, generator: Generator) -> None:
    raw = Path(_valid(folder)["old.pth"]).read_bytes()
    _weights(folder / "a.pth", pick(generator, (mutated, _mutated_old))(raw, generator))


def _mutated_old(raw: bytes, generator: Generator) -> bytes:
    """The fourth of its pickles is the one that matters."""
    file = io.BytesIO(raw)
    ends = []
    for _ in range(4):
        list(pickletools.genops(file))
        ends.append(file.tell())
    start, end = ends[2:]
    return raw[:start] + mutated_pickle(raw[start:end], generator) + raw[end:]


def safe_tensors(folder: Path, generator: Generator) -> None:
    raw = safetensors.torch.save({"a.w": torch.ones(2, 3), "a.b": torch.ones(2)}, {"format": "pt"})
    how = pick(generator, (mutated, mutated_safetensors, mutated_safetensors))
    _weights(folder / "a.safetensors", how(raw, generator))


def torch7(folder: Path, generator: Generator) -> None:
    shared = Storage(np.arange(20, dtype=np.float32))
    layer = {"weight": Tensor(shared, (3, 4), (4, 1), 2), "bias": Tensor(shared, (3,), (5,), 1)}
    raw = torch7_bytes({"model": {"layers": [layer, layer], "name": "x"}, "sizes": [1, 2.5, True]})
    path = folder / "a.t7"
    path.write_bytes(mutated(raw, generator))
    content = read_torch7(str(path))
    for value in content.values() if isinstance(content, dict) else ():
        np.array(value).tobytes()
    with contextlib.suppress(WeightsError):  # none is a model that is known here
        read_weights_file(str(path))


def _weights(path: Path, raw: bytes) -> None:
    path.write_bytes(raw)
    for value in read_weights_file(str(path))["model"].values():
        value.sum()  # looks at each number


def config(folder: Path, generator: Generator) -> None:
    lines = [
        b"_BASE_: b.yaml",
        b"SOLVER: {BASE_LR: 0.5, STEPS: [1, 2]}",
        b"MODEL:",
        b"  MASK_ON: true",
    ]
    odd = [b"a: &a [x, x]", b"b: &b [*a, *a]", b"c: *b", b"d: &d {e: *d}", b"_BASE_: [a.yaml]"]
    odd += [
        b"x: !!python/object/apply:os.system [y]",
        b"<<: *a",
        b"y: " + b"[" * 300,
        b"- z",
        b"? q",
    ]
    odd += [
        b"SOLVER: [1]",
        b"VERSION: x",
        b"MODEL: {ANCHOR_GENERATOR: {SIZES: " + b"(" * 50 + b"}}",
    ]
    for _ in range(generator.integers(1, 5)):
        lines[generator.integers(len(lines))] = pick(generator, odd)
    raw = b"\n".join(lines)
    (folder / "b.yaml").write_bytes(b"OUTPUT_DIR: x\n")
    (folder / "a.yaml").write_bytes(mutated(raw, generator) if generator.integers(2) else raw)
    load_config(folder / "a.yaml")


def images(folder: Path, generator: Generator) -> None:
    raws = _images()
    raw, other = pick(generator, raws), pick(generator, raws)
    path = folder / pick(generator, ("a.png", "a.jpg", "a"))
    path.write_bytes(
        spliced(raw, other, generator) if generator.integers(4) == 0 else mutated(raw, generator)
    )
    read_image({"file_name": str(path)}, "BGR")


def _images() -> list[bytes]:
    picture = Image.fromarray(
        np.arange(20 * 24 * 3, dtype=np.uint32).reshape(20, 24, 3).astype(np.uint8)
    )
    raws = []
    for kind in ("PNG", "JPEG", "TIFF", "BMP", "GIF", "PPM", "WEBP"):
        buffer = io.BytesIO()
        picture.save(buffer, kind)
        raws.append(buffer.getvalue())
    return raws


def _valid(folder: Path) -> dict[str, str]:
    """Valid files, written once."""
    place = folder / "valid"
    if not place.is_dir():
        place.mkdir()
        masks = [sample(1, 3, masks=True), sample(2, 2, masks=True)]
        write(place / "proposals.json", masks)
        write(place / "proposals.pkl", [sample(1, 3), sample(2, 2)])
        content = {"model": {"a.w": torch.ones(2, 3), "a.b": torch.arange(2)}, "iteration": 7}
        torch.save(content, place / "weights.pth")
        torch.save(content, place / "old.pth", _use_new_zipfile_serialization=False)
    return {path.name: str(path) for path in place.iterdir()}


TARGETS: dict[str, tuple[Target, int]] = {
    "annotations": (annotations, 20),
    "codes": (codes, 15),
    "proposal_list": (proposal_list, 11),
    "proposal_pickle": (proposal_pickle, 14),
    "array_pickle": (array_pickle, 10),
    "torch_zip": (torch_zip, 7),
    "torch_old": (torch_old, 6),
    "safe_tensors": (safe_tensors, 6),
    "torch7": (torch7, 6),
    "images": (images, 3),
    "config": (config, 2),
}
"""Of each kind, the function and how many of 100 cases go to it."""
