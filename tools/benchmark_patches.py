#!/usr/bin/env python
"""How many training patches of DeepMask and SharpMask one core makes in a second.

``python tools/benchmark_patches.py`` draws patches from the embedded shapes as training does, and
makes each of them a second time in the naive way: the whole image read, the whole mask decoded,
then cropped and resized. Any other data: ``DATASETS.TRAIN "('my_data',)"`` or ``--config-file``.
"""

import time
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.config import CfgNode
from tabulate import tabulate

from instseg_d2.command_line import add_overrides, new_parser, one_line_errors, positive
from instseg_d2.config import load_config
from instseg_d2.data.checks import load_checked_dataset
from instseg_d2.data.config_datasets import register_config_datasets
from instseg_d2.data.image_reading import read_image
from sharpmask_d2.dataset_mapper import PatchMapper
from sharpmask_d2.patch_crop import GREY
from sharpmask_d2.patch_entries import FixedPatches, testing_entries
from sharpmask_d2.patch_sampling import Window

KINDS = ("mask", "score")
ROUNDS = 3


def main() -> None:
    """Parse the command line and run; a mistake of the user ends in one line."""
    parser = new_parser(__doc__)
    parser.add_argument("--config-file", default="", help="path or name of a config")
    parser.add_argument("--patches", type=positive, default=1000, help="patches made in each way")
    add_overrides(parser)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with one_line_errors(args):
        cfg = load_config(args.config_file, args.opts)
        register_config_datasets(cfg)
        cfg.MODEL.SHARP_MASK.SAMPLING.TEST_PATCHES = args.patches
        mappers = {"sharpmask_d2": PatchMapper(cfg), "naive": NaiveMapper(cfg)}
        patches = patches_of(cfg, mappers["sharpmask_d2"])
        print(
            f"{len(patches)} patches of {', '.join(cfg.DATASETS.TRAIN) or 'shapes_train'}, 1 core"
        )
        print(comparison(patches, mappers))


def patches_of(cfg: CfgNode, mapper: PatchMapper) -> FixedPatches:
    """Patches of the training data: half to learn masks from, a quarter each with and without an
    object to learn scores from, which are the shares in training by default."""
    records = [
        record
        for name in cfg.DATASETS.TRAIN or ("shapes_train",)
        for record in load_checked_dataset(
            name, num_classes=None, classes_key="", max_instances=None, for_training=True
        )
    ]
    return testing_entries(records, mapper.options)


class NaiveMapper(PatchMapper):
    """The same patches from the whole image and the whole mask."""

    def _crop_image(self, record: dict[str, Any], window: Window) -> torch.Tensor:
        image = read_image(record, self.image_format)
        patch = _crop_and_resize(image, window, self.options.patch_size, GREY)
        return torch.from_numpy(np.ascontiguousarray(patch.transpose(2, 0, 1)))

    def _crop_mask(
        self, record: dict[str, Any], annotation: dict[str, Any], window: Window
    ) -> torch.Tensor:
        mask = _whole_mask(annotation["segmentation"], (record["height"], record["width"]))
        view = window.resized(self.mask_size / self.options.window_size)
        target = _crop_and_resize(mask * np.uint8(255), view, self.mask_size, 0) > 127
        return torch.from_numpy(target)


def comparison(patches: FixedPatches, mappers: dict[str, PatchMapper]) -> str:
    """A table; of each way the fastest of some rounds, which take turns.

    Args:
        mappers: two of them, by the name of the row. The last line compares the first with the
            second.
    """
    # Also reads the files into memory.
    kinds = [next(iter(mappers.values()))(patches[index])["kind"] for index in range(len(patches))]
    groups = [[i for i, kind in enumerate(kinds) if kind == wanted] for wanted in KINDS]
    seconds = {name: np.full(len(KINDS), np.inf) for name in mappers}
    for _ in range(ROUNDS):
        for name, mapper in mappers.items():
            taken = [_seconds(mapper, patches, indices) for indices in groups]
            seconds[name] = np.minimum(seconds[name], taken)
    sizes = np.array([max(len(indices), 1) for indices in groups])
    rows = [
        [name, len(patches) / taken.sum(), *(1000 * taken / sizes)]
        for name, taken in seconds.items()
    ]
    headers = ["", "patches/s", *(f"ms per {kind} patch" for kind in KINDS)]
    first, second = (taken.sum() for taken in seconds.values())
    table = tabulate(rows, headers, floatfmt=("", ".0f", ".2f", ".2f"))
    return f"{table}\n{second / first:.2f} x as fast"


def _seconds(mapper: PatchMapper, patches: FixedPatches, indices: list[int]) -> float:
    start = time.perf_counter()
    for index in indices:
        mapper(patches[index])
    return time.perf_counter() - start


def _whole_mask(segmentation: Any, image_size: tuple[int, int]) -> np.ndarray:
    """(H, W) uint8, 0 or 1."""
    compressed = isinstance(segmentation, dict) and not isinstance(segmentation["counts"], list)
    rles = segmentation if compressed else mask_util.frPyObjects(segmentation, *image_size)
    mask: np.ndarray = mask_util.decode(mask_util.merge(rles) if isinstance(rles, list) else rles)
    return mask


def _crop_and_resize(pixels: np.ndarray, window: Window, size: int, fill: int) -> np.ndarray:
    """The usual recipe: cut out whole pixels, resize them, put them on a canvas."""
    canvas = np.full((size, size, *pixels.shape[2:]), fill, np.uint8)
    height, width = pixels.shape[:2]
    sides = np.array(window.box(size)).round().astype(int)
    left, top, right, bottom = np.clip(sides, 0, (width, height, width, height)).tolist()
    if left < right and top < bottom:
        x, y = round((left - sides[0]) * window.scale), round((top - sides[1]) * window.scale)
        x, y = min(x, size - 1), min(y, size - 1)
        wide = min(max(round((right - left) * window.scale), 1), size - x)
        high = min(max(round((bottom - top) * window.scale), 1), size - y)
        how = cv2.INTER_AREA if window.scale < 1 else cv2.INTER_LINEAR
        part = np.ascontiguousarray(pixels[top:bottom, left:right])
        canvas[y : y + high, x : x + wide] = cv2.resize(part, (wide, high), interpolation=how)
    return np.ascontiguousarray(canvas[:, ::-1]) if window.flip else canvas


if __name__ == "__main__":
    main()
