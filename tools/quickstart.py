#!/usr/bin/env python
"""The main job on embedded data: train, evaluate, and look at the result.

``python tools/quickstart.py`` (or ``make demo``) trains a small SparseInst on the shapes data set,
evaluates it on held-out images and writes a picture grid and the training curves. Any other config
whose data is there works, too: ``--config-file NAME KEY VALUE ...``.
"""

import argparse
import contextlib
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from tabulate import tabulate

from instseg_d2.command_line import add_overrides, fraction, new_parser, one_line_errors, positive
from instseg_d2.config import load_config
from instseg_d2.data.image_reading import read_image
from instseg_d2.engine import Trainer, load_dataset, setup, training_dicts
from instseg_d2.errors import ConfigError
from instseg_d2.picture_files import save_picture
from instseg_d2.picture_grid import picture_grid
from instseg_d2.predictor import Predictor
from instseg_d2.training_curves import plot_training_curves
from instseg_d2.visualize import draw_instances

DEFAULT_CONFIG = "quickstart/sparseinst_shapes"
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def main() -> None:
    """Parse the command line and run; a mistake of the user ends in one line."""
    parser = new_parser(__doc__)
    parser.add_argument("--config-file", default=DEFAULT_CONFIG, help="path or name of a config")
    parser.add_argument("--pictures", type=positive, default=6, help="images in the picture grid")
    parser.add_argument(
        "--min-score", type=fraction, default=0.4, help="lowest score that is drawn"
    )
    add_overrides(parser)
    args = parser.parse_args()
    with one_line_errors(args):
        run(args)


def run(args: argparse.Namespace) -> None:
    """Train, evaluate, draw."""
    cfg = load_config(args.config_file, args.opts)
    if len(cfg.DATASETS.TEST) != 1:
        raise ConfigError(f"DATASETS.TEST must name one data set here, not {cfg.DATASETS.TEST}")
    output = Path(cfg.OUTPUT_DIR)
    output.mkdir(parents=True, exist_ok=True)
    grid, curves = output / "predictions.png", output / "training_curves.png"

    print(f"Training {args.config_file}; everything else that is said goes to {output}/console.txt")
    start = time.perf_counter()
    with (output / "console.txt").open("w") as console, contextlib.redirect_stdout(console):
        cfg = setup(argparse.Namespace(**vars(args), eval_only=False))
        results = train(cfg)
        minutes = (time.perf_counter() - start) / 60
        save_picture(str(grid), draw_predictions(cfg, args.pictures, args.min_score))
        plot_training_curves(str(output / "metrics.json"), str(curves))

    print(f"\nOn the held-out images of {cfg.DATASETS.TEST[0]}, after {minutes:.1f} minutes:")
    print(results_table(results))
    print(f"\nPictures (image, ground truth, prediction):  {grid}")
    print(f"Loss curves:                                 {curves}")
    print(f"Weights, config, logs, TensorBoard:          {output}")


def train(cfg: CfgNode) -> dict[str, Any]:
    """Train from the start; returns Detectron2's results of the evaluation."""
    training_dicts(cfg)  # a mistake in the data must not cost the curve of an earlier run
    # A new run starts a new curve; Detectron2 would append to the old one.
    (Path(cfg.OUTPUT_DIR) / "metrics.json").unlink(missing_ok=True)
    trainer = Trainer(cfg, progress_bar=True)
    trainer.resume_or_load(resume=False)
    trainer.train()
    return trainer.test_results


def results_table(results: dict[str, Any]) -> str:
    """Average precisions in percent, a row for masks and one for boxes; "-" where data has none."""

    def shown(value: float) -> float | None:
        return None if math.isnan(value) else value

    rows = [
        [name, *(shown(results[task].get(metric, math.nan)) for metric in METRICS)]
        for task, name in (("segm", "masks"), ("bbox", "boxes"))
        if task in results
    ]
    return tabulate(rows, headers=["", *METRICS], floatfmt=".1f", missingval="-")


def draw_predictions(cfg: CfgNode, count: int, min_score: float) -> np.ndarray:
    """A grid of the first test images: image, ground truth, prediction.

    Images without instances are passed over, unless there are no others.
    """
    name = cfg.DATASETS.TEST[0]
    metadata = MetadataCatalog.get(name)
    final = cfg.clone()
    final.defrost()
    final.MODEL.WEIGHTS = str(Path(cfg.OUTPUT_DIR) / "model_final.pth")
    predictor = Predictor(final)
    rows = []
    records = load_dataset(cfg, name, for_training=False)
    records = [record for record in records if record.get("annotations")] or records
    for record in records[: max(count, 1)]:
        image = read_image(record, "RGB")
        prediction = predictor(image[:, :, ::-1])["instances"].to("cpu")
        rows.append(
            (
                image,
                draw_instances(image, record.get("annotations", []), metadata),
                draw_instances(image, prediction, metadata, min_score=min_score),
            )
        )
    return picture_grid(rows)


if __name__ == "__main__":
    main()
