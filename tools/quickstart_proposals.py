#!/usr/bin/env python
"""Proposals of whole images and a detector on them, from nothing, on embedded data.

``python tools/quickstart_proposals.py`` (or ``make demo-proposals``) trains DeepMask and SharpMask,
writes the proposals of all images, and trains Fast R-CNN on these. For comparison the same detector
is trained on as many proposals of a region proposal network (RPN), and on random boxes. It ends
with a table: what of the objects each kind of proposal finds, and the detector's average precision.
Every step is a program of this project, run as anyone would run it.
"""

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

from instseg_d2.command_line import add_overrides, new_parser, one_line_errors, positive
from instseg_d2.config import load_config
from instseg_d2.errors import ConfigError
from instseg_d2.programs import run_program, run_training

ROOT = Path(__file__).resolve().parents[1]
TRAIN_NET = ROOT / "train_net.py"
CONFIGS = {
    name: f"quickstart/{name}_shapes" for name in ("deepmask", "sharpmask", "rpn", "fast_rcnn")
}
SETS = ("shapes_train", "shapes_val")
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


@dataclass(frozen=True)
class Run:
    """What the user asked for.

    Attributes:
        output: folder for everything.
        num: proposals per image.
        weights: of a SharpMask that is there already; "" to train one.
        opts: overrides for every program.
    """

    output: Path
    num: int
    weights: str
    opts: list[str]


def main() -> None:
    """Parse the command line and run; a mistake of the user ends in one line."""
    parser = new_parser(__doc__)
    parser.add_argument("--output", default="output/quickstart_proposals", help="folder to write")
    parser.add_argument(
        "--num", type=positive, default=100, help="proposals per image (default: 100)"
    )
    parser.add_argument(
        "--weights", default="", metavar="FILE",
        help="of a SharpMask of this size, such as demo-sharpmask's; default: train one",
    )  # fmt: skip
    add_overrides(parser)
    args = parser.parse_args()
    with one_line_errors(args):
        run(Run(Path(args.output), args.num, args.weights, args.opts))


def run(asked: Run) -> None:
    """Train, propose, detect, compare."""
    for config in CONFIGS.values():
        load_config(config, asked.opts)  # a mistake must not show up in the middle
    if asked.weights and "://" not in asked.weights and not Path(asked.weights).is_file():
        raise ConfigError(f"--weights {asked.weights} does not exist; check the path")
    start = time.perf_counter()
    proposals = {
        "SharpMask": sharpmask_proposals(asked),
        "RPN": rpn_proposals(asked),
        "random boxes": random_proposals(asked),
    }
    rows = []
    for name, folder in proposals.items():
        recall = proposal_recall(asked, folder)
        precision = detector_precision(asked, folder)
        figures = [None if math.isnan(value) else value for value in (*recall, *precision)]
        rows.append([name, *figures])
    minutes = (time.perf_counter() - start) / 60
    print(f"\nOn the held-out images of {SETS[1]}, in percent, after {minutes:.1f} minutes:")
    limits = (f"AR@{limit}" for limit in recall_limits(asked.num))
    headers = [f"{asked.num} proposals of", *limits, *(f"box {metric}" for metric in METRICS)]
    print(tabulate(rows, headers=headers, floatfmt=".1f", missingval="-"))
    print(f"\nWeights, proposals, logs, curves: {asked.output}")


# ---------------------------------------------------------------------------------------- proposals


def sharpmask_proposals(asked: Run) -> Path:
    """The folder with the proposals of a SharpMask, which is trained unless it is there."""
    weights = asked.weights
    if not weights:
        deepmask, sharpmask = asked.output / "deepmask", asked.output / "sharpmask"
        run_training(TRAIN_NET, CONFIGS["deepmask"], asked.opts, deepmask)
        start = ["MODEL.WEIGHTS", str(deepmask / "model_final.pth")]
        run_training(TRAIN_NET, CONFIGS["sharpmask"], [*asked.opts, *start], sharpmask)
        weights = str(sharpmask / "model_final.pth")
    keys = ["MODEL.WEIGHTS", weights, "MODEL.SHARP_MASK.PROPOSALS.NUM", str(asked.num)]
    return make_proposals(asked, "sharpmask", keys)


def rpn_proposals(asked: Run) -> Path:
    """The folder with the proposals of a region proposal network, trained for it."""
    output = asked.output / "rpn"
    run_training(TRAIN_NET, CONFIGS["rpn"], asked.opts, output)
    weights = str(output / "model_final.pth")
    keys = ["MODEL.WEIGHTS", weights, "MODEL.RPN.POST_NMS_TOPK_TEST", str(asked.num)]
    return make_proposals(asked, "rpn", keys)


def random_proposals(asked: Run) -> Path:
    """The folder with random boxes."""
    folder = asked.output / "random_proposals"
    folder.mkdir(parents=True, exist_ok=True)
    for name in SETS:
        arguments = ["random", str(boxes_file(folder, name)), "--dataset", name, "--overwrite"]
        arguments += ["--num", str(asked.num), *asked.opts]
        run_program(ROOT / "tools" / "proposal_files.py", arguments, folder / "console.txt")
    return folder


def make_proposals(asked: Run, name: str, keys: list[str]) -> Path:
    """The folder with the proposals of a trained model for both data sets."""
    folder = asked.output / f"{name}_proposals"
    for dataset in SETS:
        print(f"Proposals for {dataset}: {folder}", flush=True)
        arguments = ["--config-file", CONFIGS[name], "--dataset", dataset, "--no-masks"]
        arguments += ["--output", str(folder), "--overwrite", *asked.opts, *keys]
        run_program(
            ROOT / "tools" / "make_proposals.py", arguments, folder / f"{dataset}_console.txt"
        )
    return folder


def boxes_file(folder: Path, dataset: str) -> Path:
    """Where ``make_proposals.py`` writes boxes."""
    return folder / f"{dataset}_boxes.pkl"


# --------------------------------------------------------------------------------------- comparison


def recall_limits(num: int) -> tuple[int, ...]:
    """The numbers of proposals that recall is given at."""
    return (10, num) if num > 10 else (num,)


def proposal_recall(asked: Run, folder: Path) -> list[float]:
    """Average recall of held-out objects' boxes at :func:`recall_limits`, in percent."""
    limits = recall_limits(asked.num)
    arguments = ["--proposals", str(boxes_file(folder, SETS[1])), "--dataset", SETS[1]]
    arguments += ["--limits", ",".join(map(str, limits)), "--output", str(folder), *asked.opts]
    run_program(ROOT / "tools" / "evaluate_proposals.py", arguments, folder / "recall.txt")
    results = json.loads((folder / "proposal_recall.json").read_text())
    return [results["box_proposals"][f"AR@{limit}"] for limit in limits]


def detector_precision(asked: Run, folder: Path) -> list[float]:
    """Box AP of Fast R-CNN on proposals, trained from random weights, in percent."""
    output = folder.with_name(folder.name.replace("_proposals", "_detector"))
    train, test = (f"('{boxes_file(folder, name)}',)" for name in SETS)
    keys = ["DATASETS.PROPOSAL_FILES_TRAIN", train, "DATASETS.PROPOSAL_FILES_TEST", test]
    for split in ("TRAIN", "TEST"):
        keys += [f"DATASETS.PRECOMPUTED_PROPOSAL_TOPK_{split}", str(asked.num)]
    run_training(TRAIN_NET, CONFIGS["fast_rcnn"], [*asked.opts, *keys], output)
    lines = (output / "metrics.json").read_text().splitlines()
    last = next(record for line in reversed(lines) if "bbox/AP" in (record := json.loads(line)))
    return [last[f"bbox/{metric}"] for metric in METRICS]


if __name__ == "__main__":
    main()
