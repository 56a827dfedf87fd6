#!/usr/bin/env python
"""DeepMask, then SharpMask, on embedded data: train both stages, compare the masks, look at them.

``python tools/quickstart_sharpmask.py`` (or ``make demo-sharpmask``) runs ``train_net.py`` for each
stage, as anyone would, and ends with a table of the masks' quality on held-out patches and a
picture of them. ``--baseline`` also trains the network that predicts from every level on its own
(figure 1b of SharpMask's paper).
"""

import argparse
import json
import time
from pathlib import Path

from tabulate import tabulate

from instseg_d2.command_line import add_overrides, new_parser, one_line_errors, positive
from instseg_d2.config import load_config
from instseg_d2.data.config_datasets import register_config_datasets
from instseg_d2.picture_files import save_picture
from instseg_d2.programs import run_training
from sharpmask_d2.patch_pictures import draw_held_out_patches, only_test_set

TRAIN_NET = Path(__file__).resolve().parents[1] / "train_net.py"
DEEPMASK, SHARPMASK = "quickstart/deepmask_shapes", "quickstart/sharpmask_shapes"
METRICS = ("mean IoU", "median IoU", "IoU >= 0.5", "IoU >= 0.7")


def main() -> None:
    """Parse the command line and run; a mistake of the user ends in one line."""
    parser = new_parser(__doc__)
    parser.add_argument("--output", default="output/quickstart_sharpmask", help="folder to write")
    parser.add_argument("--baseline", action="store_true", help="train the baseline as well")
    parser.add_argument("--pictures", type=positive, default=8, help="patches in the picture")
    add_overrides(parser)
    args = parser.parse_args()
    with one_line_errors(args):
        run(args)


def run(args: argparse.Namespace) -> None:
    """Train, compare, draw."""
    output = Path(args.output)
    stages = {"DeepMask": output / "deepmask", "SharpMask": output / "sharpmask"}
    refine = ["MODEL.WEIGHTS", str(stages["DeepMask"] / "model_final.pth")]
    cfg = load_config(SHARPMASK, args.opts)
    only_test_set(cfg)  # a mistake must not show up after the training
    start = time.perf_counter()
    run_training(TRAIN_NET, DEEPMASK, args.opts, stages["DeepMask"])
    run_training(TRAIN_NET, SHARPMASK, [*args.opts, *refine], stages["SharpMask"])
    minutes = (time.perf_counter() - start) / 60
    if args.baseline:
        stages["multiscale baseline"] = output / "multiscale"
        baseline = [*args.opts, *refine, "MODEL.SHARP_MASK.REFINEMENT.NAME", "Multiscale"]
        run_training(TRAIN_NET, SHARPMASK, baseline, stages["multiscale baseline"])

    picture = output / "patches.png"
    register_config_datasets(cfg)
    cfg.MODEL.WEIGHTS = str(stages["SharpMask"] / "model_final.pth")
    save_picture(str(picture), draw_held_out_patches(cfg, max(args.pictures, 1)))
    print(f"\nOn held-out patches, in percent; both stages took {minutes:.1f} minutes:")
    print(results_table({name: last_metrics(folder) for name, folder in stages.items()}))
    print(f"\nPictures (patch, true mask, coarse and sharp mask): {picture}")
    print(f"Weights, configs, logs, curves:                      {output}")


def last_metrics(folder: Path) -> dict[str, float]:
    """The figures of the evaluation at the end of a training: ``{"task/metric": percent}``."""
    lines = (folder / "metrics.json").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return next(record for record in reversed(records) if "score/accuracy" in record)


def results_table(metrics: dict[str, dict[str, float]]) -> str:
    """A row for each network: the quality of its masks, and how often its score is right."""
    columns = [f"mask/{metric}" for metric in METRICS] + ["score/accuracy"]
    rows = [[name, *(values[key] for key in columns)] for name, values in metrics.items()]
    return tabulate(rows, headers=["masks of", *METRICS, "score accuracy"], floatfmt=".1f")


if __name__ == "__main__":
    main()
