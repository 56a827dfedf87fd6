#!/usr/bin/env python
"""How fast a model is: ``python tools/benchmark.py --config-file NAME [--against plain] ...``.

Measures predictions, whole and by stage; or, with one of --train, --data, --evaluation and
--proposals, something else. The sides of a comparison take turns in one process, after a warm-up;
the table has medians, the range of four of five rounds, and how many times as long the other side
takes as the product. Time on the CPU adds up all threads; it suffers less from other programs.

Weights are random unless MODEL.WEIGHTS is given. SparseInst's thresholds are set so that --kept
instances are left of the image (of random weights the classifier is drawn wider for that, too);
--kept 0 leaves the config's. --against plain: the straight transcription of the papers under
tests/plain, on the same weights; --against CONFIG: another model.

Peak MB are tensors alone: on a GPU max_memory_allocated beyond what was there before, on a CPU all
of PyTorch's allocations, added up. GMAC are multiply-adds as tools/analyze.py counts them, and "of
matmul" is their rate as a share of that of a large matrix product, measured at the start.
"""

import argparse
import sys
from pathlib import Path

import torch

from instseg_d2.atomic_file import write_json_whole
from instseg_d2.benchmark.run import MODES, run
from instseg_d2.benchmark.settings import Settings
from instseg_d2.benchmark.tables import report
from instseg_d2.command_line import add_overrides, new_parser, one_line_errors, positive, whole
from instseg_d2.inference.options import PRECISIONS


def main() -> None:
    """Parse the command line and run; a mistake of the user ends in one line."""
    args = make_parser().parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    names = Settings.__dataclass_fields__.keys() & vars(args).keys()
    settings = Settings(**{name: getattr(args, name) for name in names})
    with one_line_errors(args):
        result = run(args.mode, settings)
        result["command"] = " ".join(["python tools/benchmark.py", *sys.argv[1:]])
        print(report(result))
        if args.json:
            write_json_whole(Path(args.json), result)


def make_parser() -> argparse.ArgumentParser:
    """The command line; its names are those of :class:`Settings`."""
    parser = new_parser(__doc__)
    parser.add_argument("--config-file", dest="config", required=True, help="path or name")
    mode = parser.add_mutually_exclusive_group()
    parser.set_defaults(mode="prediction")
    helps = {
        "train": "training steps of SparseInst: forward, losses, backward",
        "data": "SparseInst's mapper beside Detectron2's, on DATASETS.TRAIN",
        "evaluation": "COCO's evaluation of 100 detections an image, beside Detectron2's",
        "proposals": "DeepMask's or SharpMask's proposals of one image",
    }
    for name in MODES.keys() & helps.keys():
        mode.add_argument(
            f"--{name}", dest="mode", action="store_const", const=name, help=helps[name]
        )
    parser.add_argument(
        "--size", type=positive, nargs=2, metavar=("HEIGHT", "WIDTH"),
        help="of the image, which is then not resized; default: 480 x 640, resized as configured",
    )  # fmt: skip
    parser.add_argument(
        "--output-size", type=positive, nargs=2, metavar=("HEIGHT", "WIDTH"),
        help="of the results; default: that of the image",
    )  # fmt: skip
    parser.add_argument("--batch", type=positive, default=1, help="images (default: 1)")
    parser.add_argument("--device", default="", choices=["cpu", "cuda"], help="default: a GPU")
    parser.add_argument("--precision", default="float32", choices=list(PRECISIONS))
    parser.add_argument(
        "--against-precision", default="", choices=list(PRECISIONS), help="default: the same"
    )
    parser.add_argument("--compile", action="store_true", help="MODEL.INFERENCE.COMPILE")
    parser.add_argument("--graphs", action="store_true", help="MODEL.INFERENCE.CUDA_GRAPHS")
    parser.add_argument("--against", default="", metavar="plain|CONFIG")
    parser.add_argument("--rounds", type=positive, default=7, help="default: 7")
    parser.add_argument("--threads", type=positive, help="CPU threads; default: all cores")
    parser.add_argument("--kept", type=whole, default=30, help="instances (default: 30)")
    parser.add_argument("--objects", type=whole, default=30, help="--train: an image's")
    parser.add_argument(
        "--images", type=whole, default=0, help="--data: default 20; --evaluation: default 500"
    )
    parser.add_argument(
        "--operators", action="store_true", help="also PyTorch's operators that take most"
    )
    parser.add_argument("--json", metavar="FILE", help="also write the numbers into a file")
    add_overrides(parser, "overrides")
    return parser


if __name__ == "__main__":
    main()
