#!/usr/bin/env python
"""Draw the pictures of docs/how_it_works.md from the quickstart's trained models.

    python tools/draw_how_it_works.py --sparseinst output/quickstart_sparseinst/model_final.pth \\
        --sharpmask output/quickstart_sharpmask/sharpmask/model_final.pth

after ``make demo`` and ``make demo-sharpmask``. --image names another image than the usual one.
"""

import argparse
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Instances
from torch import nn

from instseg_d2.command_line import new_parser, one_line_errors
from instseg_d2.config import load_config
from instseg_d2.data.config_datasets import register_config_datasets
from instseg_d2.image_sources import NamedImage
from instseg_d2.modeling import build_trained_model
from instseg_d2.picture_files import save_picture
from instseg_d2.picture_grid import picture_grid
from instseg_d2.preprocessing import ImagePreprocessor
from instseg_d2.visualize import draw_instances
from sharpmask_d2.inside import Level, RefinedWindow, look_inside
from sparseinst_d2.activation_maps import draw_activation_maps, heat_map, instances_with_maps
from sparseinst_d2.postprocess import class_scores

SPARSEINST, SHARPMASK = "quickstart/sparseinst_shapes", "quickstart/sharpmask_shapes"

#: By config, the number of an image of shapes_val: one with objects that overlap, and one with
#: objects of different sizes.
IMAGES = {SPARSEINST: 20, SHARPMASK: 13}
MIN_SCORE = 0.4
OUTLINE = (60, 220, 60)
WINDOW = (255, 60, 60)


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and run; a mistake of the user ends in one line."""
    parser = new_parser(__doc__)
    parser.add_argument("--sparseinst", metavar="FILE", help="weights of " + SPARSEINST)
    parser.add_argument("--sharpmask", metavar="FILE", help="weights of " + SHARPMASK)
    parser.add_argument("--image", metavar="FILE", help="default: one of the embedded data")
    parser.add_argument("--output", default="docs/images", metavar="DIR", help="folder to write")
    args = parser.parse_args(argv)
    if not args.sparseinst and not args.sharpmask:
        parser.error("give --sparseinst, --sharpmask or both")
    with one_line_errors(args):
        run(args)


def run(args: argparse.Namespace) -> None:
    """Draw what there are weights for."""
    folder = Path(args.output)
    folder.mkdir(parents=True, exist_ok=True)
    pictures: dict[str, np.ndarray] = {}
    if args.sparseinst:
        pictures |= of_sparseinst(args.sparseinst, args.image)
    if args.sharpmask:
        pictures |= of_sharpmask(args.sharpmask, args.image)
    for name, picture in pictures.items():
        save_picture(str(folder / f"{name}.jpg"), picture)
        print(f"{folder / name}.jpg: {picture.shape[1]} x {picture.shape[0]} pixels")


def load(config: str, weights: str, image: str | None) -> tuple[CfgNode, nn.Module, np.ndarray]:
    """The config, the trained model, and the image, uint8 RGB."""
    cfg = load_config(config, ["MODEL.WEIGHTS", weights])
    register_config_datasets(cfg)
    model = build_trained_model(cfg)
    path = image or DatasetCatalog.get("shapes_val")[IMAGES[config] - 1]["file_name"]
    return cfg, model, np.ascontiguousarray(NamedImage(path, path).read()[:, :, ::-1])


# -------------------------------------------------------------------------------------- SparseInst


@torch.no_grad()
def of_sparseinst(weights: str, image: str | None) -> dict[str, np.ndarray]:
    """Activation maps beside the instances, and all predictions with their scores."""
    cfg, model, pixels = load(SPARSEINST, weights, image)
    metadata = MetadataCatalog.get("shapes_val")
    inputs = ImagePreprocessor.from_config(cfg)(pixels[:, :, ::-1])
    found = instances_with_maps(model, inputs)
    maps = draw_activation_maps(pixels, found, metadata, min_score=MIN_SCORE, cell=240)
    return {
        "sparseinst_maps": maps,
        "sparseinst_predictions": draw_predictions(model, inputs, pixels, metadata.thing_classes),
    }


def draw_predictions(
    model: Any, inputs: dict[str, Any], pixels: np.ndarray, names: list[str]
) -> np.ndarray:
    """The mask of each of the N predictions, with its class and its score before the rescoring."""
    images = model.preprocess([inputs])
    outputs = model.decoder(model.encoder(model.backbone(images.tensor)))
    scores, classes = class_scores(outputs["pred_logits"][0], outputs["pred_scores"][0])
    height, width = images.image_sizes[0]
    padded_height, padded_width = images.tensor.shape[-2:]
    cells, titles = [], []
    for score, category, logits in zip(scores, classes, outputs["pred_masks"][0], strict=True):
        probability = logits.sigmoid().numpy()
        rows = round(len(probability) * height / padded_height)
        columns = round(probability.shape[1] * width / padded_width)
        cells.append(heat_map(pixels, probability[:rows, :columns], peak=1.0))
        titles.append(f"{names[category]} {score:.2f}")
    half = len(cells) // 2
    return np.concatenate(
        [
            picture_grid([cells[:half]], titles[:half], cell=190),
            picture_grid([cells[half : 2 * half]], titles[half : 2 * half], cell=190),
        ]
    )


# --------------------------------------------------------------------------------------- SharpMask


def of_sharpmask(weights: str, image: str | None) -> dict[str, np.ndarray]:
    """The pyramid with a window, the scores over scales, and the steps of the refinement."""
    _, model, pixels = load(SHARPMASK, weights, image)
    tensor = torch.from_numpy(pixels.transpose(2, 0, 1).copy())
    levels, windows = look_inside(model, {"image": tensor}, num=60)
    chosen = different_windows(levels, windows, 3)
    return {
        "sharpmask_pyramid": draw_pyramid(levels, chosen, model.window_size),
        "sharpmask_scores": draw_scores(pixels, levels),
        "sharpmask_steps": draw_steps(levels, chosen, model.window_size),
    }


def different_windows(
    levels: list[Level], windows: list[RefinedWindow], count: int
) -> list[RefinedWindow]:
    """The best windows whose centres lie apart in the image."""
    chosen: list[RefinedWindow] = []
    places: list[np.ndarray] = []
    for window in windows:
        height, width = levels[window.level].size
        place = np.array(window.corner) / (height, width)  # corners of windows are W/2 from centres
        if all(np.abs(place - other).max() > 0.15 for other in places) and len(chosen) < count:
            chosen.append(window)
            places.append(place)
    return chosen


def draw_pyramid(levels: list[Level], windows: list[RefinedWindow], side: int) -> np.ndarray:
    """All levels at one scale, in their grey frames, with the outlines of windows."""
    pictures = []
    for index, level in enumerate(levels):
        picture = level.picture.copy()
        for window in windows:
            if window.level == index:
                y, x = window.corner
                cv2.rectangle(picture, (x, y), (x + side - 1, y + side - 1), WINDOW, 2)
        pictures.append(picture)
    height = max(map(len, pictures))
    gap = 8
    canvas = [np.full((height + 2 * gap, gap, 3), 255, np.uint8)]
    for picture in pictures:
        column = np.full((height + 2 * gap, picture.shape[1] + gap, 3), 255, np.uint8)
        column[-gap - len(picture) : -gap, :-gap] = picture
        canvas.append(column)
    return np.concatenate(canvas, axis=1)


def draw_scores(pixels: np.ndarray, levels: list[Level]) -> np.ndarray:
    """For each level, over the image: the probability that an object is centred here."""
    row, titles = [], []
    for level in levels:
        height, width = pixels.shape[:2]
        rows, columns = level.scores.shape
        # Window (i, j) is centred at pixel (t i, t j) of the level.
        map_y = np.linspace(0, rows - 1, height, dtype=np.float32)
        map_x = np.linspace(0, columns - 1, width, dtype=np.float32)
        scores = cv2.remap(level.scores, *np.meshgrid(map_x, map_y), cv2.INTER_LINEAR)
        row.append(heat_map(pixels, scores, peak=1.0))
        titles.append(f"{level.size[1]} x {level.size[0]}: {rows * columns} windows")
    half = -(-len(row) // 2)
    blank = np.full_like(pixels, 255)
    second, second_titles = row[half:], titles[half:]
    second += [blank] * (half - len(second))
    second_titles += [""] * (half - len(second_titles))
    return np.concatenate(
        [picture_grid([row[:half]], titles[:half], cell=230),
         picture_grid([second], second_titles, cell=230)]
    )  # fmt: skip


def draw_steps(levels: list[Level], windows: list[RefinedWindow], side: int) -> np.ndarray:
    """A row for each window: window, coarse mask, the states on the way, sharp mask."""
    rows, titles = [], []
    for window in windows:
        y, x = window.corner
        part = np.ascontiguousarray(levels[window.level].picture[y : y + side, x : x + side])
        states = [np.abs(state).mean(0) for state in window.states]
        rows.append(
            [
                part,
                with_mask(part, window.coarse),
                *(colours(state, side) for state in states),
                with_mask(part, window.sharp),
            ]
        )
        sizes = [f"M{index + 1}: {s.shape[0]}" for index, s in enumerate(states)]
        titles = ["window", "coarse", *sizes, "sharp"]
    return picture_grid(rows, titles, cell=150)


def colours(state: np.ndarray, side: int) -> np.ndarray:
    """A map as colours, from dark to bright, each cell a square."""
    scaled = (255 * state / max(float(state.max()), 1e-12)).round().astype(np.uint8)
    large = cv2.resize(scaled, (side, side), interpolation=cv2.INTER_NEAREST)
    picture: np.ndarray = cv2.applyColorMap(large, cv2.COLORMAP_INFERNO)[..., ::-1]
    return np.ascontiguousarray(picture)


def with_mask(part: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """The window with its mask."""
    found = Instances(part.shape[:2])
    found.pred_masks = torch.from_numpy(probability > 0.5)[None]
    return draw_instances(part, found)


if __name__ == "__main__":
    main()
