#!/usr/bin/env python
"""Draw what a trained model finds in images, folders, videos or before a camera.

    python tools/demo.py --config-file CONFIG --input image.jpg folder "more/*.png" clip.mp4 \\
        --output DIR MODEL.WEIGHTS FILE

writes DIR/overlays, an image for each image and a video for each video; with --write json the
detections in COCO's format, DIR/predictions.json (masks as run-length codes) and DIR/images.json.
The model is SparseInst, DeepMask, SharpMask or one of Detectron2's. --save-iam adds pictures of how
it came to its answer: SparseInst's instance activation maps, SharpMask's coarse and sharp masks.

Images are turned upright by their EXIF orientation, as they are in training. What cannot be read is
passed over and named at the end; the exit status is 1 then. What is finished is noted in
DIR/demo.part until everything is: after an interruption the same command goes on where it was.
"""

import argparse
import re
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from PIL import Image

from instseg_d2.batch_predictor import BatchPredictor
from instseg_d2.command_line import (
    add_overrides,
    fraction,
    new_parser,
    one_line_errors,
    positive,
    whole,
)
from instseg_d2.config import get_cfg, load_config
from instseg_d2.demo.detections import Wanted
from instseg_d2.demo.inputs import Inputs, find_inputs
from instseg_d2.demo.progress import demo_settings
from instseg_d2.demo.proposals_first import put_proposals_first
from instseg_d2.demo.report import Output, Report, Seen, summary
from instseg_d2.demo.run import Demo
from instseg_d2.demo.video import CODECS, Camera
from instseg_d2.errors import ConfigError, DataError
from instseg_d2.families import config_value, set_config_value
from sharpmask_d2 import FAMILY as SHARPMASK
from sharpmask_d2.coarse_and_sharp import coarse_and_sharp, draw_coarse_and_sharp
from sparseinst_d2 import FAMILY as SPARSEINST
from sparseinst_d2.activation_maps import draw_activation_maps, instances_with_maps

DEFAULT_THRESHOLD = 0.4

#: By ``MODEL.META_ARCHITECTURE``: the key of the threshold on the final score.
THRESHOLD_KEYS = {
    **dict.fromkeys(SPARSEINST.meta_architectures, "MODEL.SPARSE_INST.SCORE_THRESHOLD"),
    **dict.fromkeys(SHARPMASK.meta_architectures, "MODEL.SHARP_MASK.PROPOSALS.SCORE_THRESHOLD"),
    "GeneralizedRCNN": "MODEL.ROI_HEADS.SCORE_THRESH_TEST",
    "RetinaNet": "MODEL.RETINANET.SCORE_THRESH_TEST",
}

#: Likewise, of the most detections that an image gets.
LIMIT_KEYS = {
    **dict.fromkeys(SPARSEINST.meta_architectures, "MODEL.SPARSE_INST.MAX_DETECTIONS"),
    **dict.fromkeys(SHARPMASK.meta_architectures, "MODEL.SHARP_MASK.PROPOSALS.NUM"),
    "ProposalNetwork": "MODEL.RPN.POST_NMS_TOPK_TEST",
}

#: Models whose answer grows with these alone, of which a person wants to see a few.
PROPOSAL_MODELS = (*SHARPMASK.meta_architectures, "ProposalNetwork")
DEFAULT_PROPOSALS = 10

#: Larger images are reduced. DeepMask and SharpMask enlarge images and keep the features of all.
MAX_PIXELS = 2**24
MAX_PIXELS_OF_PROPOSALS = 2**21


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and run; a mistake of the user ends in one line."""
    for stream in (sys.stdout, sys.stderr):  # names of files need not be text
        stream.reconfigure(errors="backslashreplace")
    args = parse(argv)
    kept = f"what was written stays in {args.output}, and the same command goes on from there"
    with one_line_errors(args, after=kept, interrupted=f"interrupted; {kept}"):
        report = run(args)
    if report.problems:
        print(f"\n{len(report.problems)} inputs could not be used:", file=sys.stderr)
        print("\n".join(f"  {problem}" for problem in report.problems), file=sys.stderr)
        sys.exit(1)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line; None: that of the process."""
    parser = new_parser(__doc__)
    parser.add_argument("--config-file", required=True, help="path or name of a config")
    parser.add_argument(
        "--input", nargs="+", default=[], metavar="PATH",
        help="images, videos, folders (their images), and patterns such as 'a/**/*.jpg'",
    )  # fmt: skip
    parser.add_argument(
        "--webcam", type=whole, nargs="?", const=0, metavar="N",
        help="film with camera N (default: 0) until Ctrl-C",
    )  # fmt: skip
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--write", type=kinds, default=("overlay",), metavar="KINDS",
        help="overlay (default), json, or overlay,json",
    )  # fmt: skip
    parser.add_argument(
        "--score-threshold", type=fraction, metavar="S",
        help=f"detections with a final score above this (default: {DEFAULT_THRESHOLD})",
    )  # fmt: skip
    parser.add_argument(
        "--mask-nms", type=fraction, metavar="IOU",
        help="of masks of one class that overlap more, keep the best (default: keep all)",
    )  # fmt: skip
    parser.add_argument(
        "--min-area", type=whole, default=0, metavar="PIXELS",
        help="leave out smaller detections (default: none)",
    )  # fmt: skip
    parser.add_argument(
        "--top", type=positive, metavar="N",
        help=f"the best N of an image (default: all; of proposals {DEFAULT_PROPOSALS})",
    )  # fmt: skip
    parser.add_argument(
        "--save-iam", action="store_true",
        help="also SparseInst's activation maps, or SharpMask's coarse and sharp masks",
    )  # fmt: skip
    parser.add_argument(
        "--proposals-from", nargs=2, metavar=("CONFIG", "WEIGHTS"),
        help="the model that makes proposals for Fast R-CNN",
    )  # fmt: skip
    parser.add_argument(
        "--format", choices=("jpg", "png"), default="jpg", help="of pictures (default: jpg)"
    )
    parser.add_argument("--codec", choices=tuple(CODECS), help="of videos (default: what works)")
    parser.add_argument(
        "--limit", type=positive, metavar="N", help="the first N frames of a video or the camera"
    )
    parser.add_argument(
        "--batch-size", type=positive, metavar="N",
        help="images at a time (default: 1; of files on a GPU 4)",
    )  # fmt: skip
    parser.add_argument(
        "--max-pixels", type=positive, metavar="N",
        help=f"larger images are reduced, so that memory suffices (default: {MAX_PIXELS}; of "
        f"DeepMask and SharpMask {MAX_PIXELS_OF_PROPOSALS})",
    )  # fmt: skip
    add_overrides(parser)
    args = parser.parse_args(argv)
    args.input, overrides = split_at_overrides(args.input)
    args.opts = [*overrides, *args.opts]
    if not args.input and args.webcam is None:
        parser.error("nothing to look at: give --input or --webcam")
    return args


def split_at_overrides(inputs: list[str]) -> tuple[list[str], list[str]]:
    """Inputs, and the config overrides that argparse takes for inputs where these come last."""
    outermost = [key for key, value in get_cfg().items() if not isinstance(value, CfgNode)]
    for index, text in enumerate(inputs):
        is_key = text in outermost or re.fullmatch(r"[A-Z_]+(\.[A-Z0-9_]+)+", text)
        if is_key and not Path(text).exists():
            return inputs[:index], inputs[index:]
    return inputs, []


def kinds(text: str) -> tuple[str, ...]:
    """``overlay,json``, for argparse."""
    parts = tuple(text.split(","))
    if not set(parts) <= {"overlay", "json"}:
        raise argparse.ArgumentTypeError(f"{text!r} is not overlay, json or overlay,json")
    return parts


def run(args: argparse.Namespace) -> Report:
    """Find the inputs, build the model, predict, say what was done."""
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # large images are expected
    cfg, wanted = settings(args)
    output = Output(
        folder=Path(args.output),
        overlays="overlay" in args.write,
        json="json" in args.write,
        suffix=f".{args.format}",
        codec=args.codec,
        **explanation(cfg, args.save_iam),
    )
    inputs = find_inputs(args.input, output.folders())
    check_inputs(inputs, args)
    make_folder(output.folder)
    camera = None if args.webcam is None else Camera(args.webcam)
    proposals_cfg = settings_of_proposals(cfg, args)
    with build_predictor(cfg, args) as predictor:
        if proposals_cfg is not None:
            top = cfg.DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST
            put_proposals_first(predictor, proposals_cfg, top)
        depends_on = demo_settings(
            cfg, predictor.model, wanted, output,
            max_pixels=most_pixels(cfg, args), limit=args.limit, proposals_cfg=proposals_cfg,
        )  # fmt: skip
        report = Demo(predictor, wanted, output, depends_on).run(inputs, camera, args.limit)
    print(summary(report, output))
    return report


def settings(args: argparse.Namespace) -> tuple[CfgNode, Wanted]:
    """The config, which makes the model leave out what is not wanted, and what is wanted."""
    cfg = load_config(args.config_file, args.opts)
    given = args.opts[::2]
    architecture = cfg.MODEL.META_ARCHITECTURE
    if not cfg.MODEL.WEIGHTS or cfg.MODEL.WEIGHTS.startswith("detectron2://ImageNetPretrained"):
        raise ConfigError(
            f"MODEL.WEIGHTS is {cfg.MODEL.WEIGHTS!r}: name a trained checkpoint at the end of the "
            "command, for example MODEL.WEIGHTS output/model_final.pth"
        )
    if cfg.MODEL.DEVICE.startswith("cuda") and "MODEL.DEVICE" not in given:
        cfg.MODEL.DEVICE = cfg.MODEL.DEVICE if torch.cuda.is_available() else "cpu"
    key, threshold = THRESHOLD_KEYS.get(architecture), args.score_threshold
    if threshold is None and key in given:
        threshold = config_value(cfg, key)
    elif threshold is None:
        threshold = DEFAULT_THRESHOLD
    if key is not None:
        set_config_value(cfg, key, float(threshold))
    top = args.top
    if top is None and architecture in PROPOSAL_MODELS:
        top = DEFAULT_PROPOSALS
    is_filtered = args.mask_nms is not None or args.min_area > 0
    key = LIMIT_KEYS.get(architecture)
    if top is not None and key is not None and (not is_filtered or top > config_value(cfg, key)):
        set_config_value(cfg, key, top)
    return cfg, Wanted(threshold, args.mask_nms, args.min_area, top)


def settings_of_proposals(cfg: CfgNode, args: argparse.Namespace) -> CfgNode | None:
    """The config of the model that makes the proposals which a detector reads; None for others.

    Raises:
        ConfigError: it is not named, or for a model that does without.
    """
    name = cfg.MODEL.META_ARCHITECTURE
    if not cfg.MODEL.LOAD_PROPOSALS:
        if args.proposals_from:
            raise ConfigError(f"--proposals-from: this {name} reads no proposals")
        return None
    if not args.proposals_from:
        raise ConfigError(
            f"this {name} reads proposals, which nobody has computed for these images: name a "
            "model that does, --proposals-from CONFIG WEIGHTS"
        )
    config, weights = args.proposals_from
    device = ["MODEL.DEVICE", cfg.MODEL.DEVICE]
    other = load_config(config, ["MODEL.WEIGHTS", weights, *device])
    key = LIMIT_KEYS.get(other.MODEL.META_ARCHITECTURE)
    if other.MODEL.META_ARCHITECTURE not in PROPOSAL_MODELS or key is None:
        raise ConfigError(f"--proposals-from: {config} makes no proposals")
    most = min(config_value(other, key), cfg.DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST)
    set_config_value(other, key, most)
    return other


def explanation(cfg: CfgNode, is_wanted: bool) -> dict[str, object]:
    """What of :class:`Output` ``--save-iam`` sets.

    Raises:
        ConfigError: the model has nothing to show.
    """
    if not is_wanted:
        return {}
    architecture = cfg.MODEL.META_ARCHITECTURE
    if architecture in SPARSEINST.meta_architectures:
        return {"explanations": "activation_maps", "explain": explain_sparseinst}
    if architecture == "SharpMask" and cfg.MODEL.SHARP_MASK.OUTPUT == "sharp":
        return {"explanations": "coarse_and_sharp", "explain": explain_sharpmask}
    raise ConfigError(
        f"--save-iam: MODEL.META_ARCHITECTURE {architecture} has no activation maps; SparseInst "
        "has them, and SharpMask (MODEL.SHARP_MASK.OUTPUT sharp) has coarse and sharp masks"
    )


def explain_sparseinst(seen: Seen) -> np.ndarray:
    """Activation maps beside their instances."""
    found = seen.select({"instances": instances_with_maps(seen.model, seen.inputs)})
    return draw_activation_maps(seen.image, found, seen.metadata, min_score=0.0)


def explain_sharpmask(seen: Seen) -> np.ndarray:
    """Coarse masks beside sharp ones."""
    found = seen.select({"proposals": coarse_and_sharp(seen.model, seen.inputs)})
    return draw_coarse_and_sharp(seen.image, found)


def check_inputs(inputs: Inputs, args: argparse.Namespace) -> None:
    """
    Raises:
        DataError: there is nothing to predict.
    """
    if inputs.left_out:
        print(f"{inputs.left_out} files in {args.output} are results and are passed over")
    if not inputs.images and not inputs.videos and args.webcam is None:
        raise DataError("; ".join(inputs.problems) or "there is nothing to predict")


def make_folder(folder: Path) -> None:
    """
    Raises:
        ConfigError: it is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--output {folder} is a file; it must name a folder")
    folder.mkdir(parents=True, exist_ok=True)


def most_pixels(cfg: CfgNode, args: argparse.Namespace) -> int:
    """Of an image that is not reduced."""
    if args.max_pixels is not None:
        return int(args.max_pixels)
    is_pyramid = cfg.MODEL.META_ARCHITECTURE in SHARPMASK.meta_architectures or args.proposals_from
    return MAX_PIXELS_OF_PROPOSALS if is_pyramid else MAX_PIXELS


def build_predictor(cfg: CfgNode, args: argparse.Namespace) -> BatchPredictor:
    """Small batches and a short queue: what is drawn should not wait, nor fill the memory."""
    is_gpu = cfg.MODEL.DEVICE.startswith("cuda")
    batch = args.batch_size or (4 if is_gpu and args.webcam is None else 1)
    return BatchPredictor(
        cfg,
        batch_size=batch,
        num_workers=1 if args.webcam is not None else 2,
        window=batch,
        max_pixels=most_pixels(cfg, args),
    )


if __name__ == "__main__":
    main()
