#!/usr/bin/env python
"""Write the proposals of a trained model for all images of a data set.

    python tools/make_proposals.py --config-file CONFIG --dataset NAME --output DIR \\
        MODEL.WEIGHTS FILE

writes DIR/NAME_boxes.pkl, which Detectron2's DATASETS.PROPOSAL_FILES_TRAIN and _TEST name, and, if
the model makes masks, DIR/NAME_masks.json, results in COCO's format. The model is DeepMask,
SharpMask or Detectron2's ProposalNetwork (RPN).

Finished parts are kept in DIR/NAME_parts: started again after an interruption, the program goes on
where it was. With --shard I/N it works on one of N equal pieces of the images; N processes, or N
machines with DIR on a shared disk, share the work so, and the last one to finish writes the two
files. Without a shared disk, copy the contents of DIR/NAME_parts into one folder and give
``python tools/proposal_files.py merge DIR``.
"""

import argparse
import sys
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetMapper

from instseg_d2.command_line import add_overrides, new_parser, one_line_errors, positive
from instseg_d2.config import load_config
from instseg_d2.data.config_datasets import register_config_datasets
from instseg_d2.data.image_records import load_images
from instseg_d2.data.proposal_answers import Mapper
from instseg_d2.data.proposal_making import Made, Making, make_parts
from instseg_d2.data.proposal_merge import merge_parts
from instseg_d2.data.proposal_parts import PartFolder, gaps
from instseg_d2.data.proposal_settings import proposal_settings
from instseg_d2.data.whole_images import WholeImageMapper
from instseg_d2.errors import ConfigError
from instseg_d2.families import config_value
from instseg_d2.modeling import build_inference_model
from sharpmask_d2 import FAMILY as SHARPMASK

#: By ``MODEL.META_ARCHITECTURE``: the key of the most proposals that an image gets.
LIMIT_KEYS = {
    **dict.fromkeys(SHARPMASK.meta_architectures, "MODEL.SHARP_MASK.PROPOSALS.NUM"),
    "ProposalNetwork": "MODEL.RPN.POST_NMS_TOPK_TEST",
}

#: Of the config: what makes no difference to proposals.
IGNORED_KEYS = (
    "MODEL.SHARP_MASK.EVALUATION",
    "MODEL.SHARP_MASK.LOSS",
    "MODEL.SHARP_MASK.PROPOSALS.BATCH",
    "MODEL.SHARP_MASK.SAMPLING",
)


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and run; a mistake of the user ends in one line."""
    args = parse(argv)
    with one_line_errors(
        args,
        after=f"what was finished stays in {args.output}",
        interrupted="interrupted; the same command goes on from here",
    ):
        made = run(args)
    if made.failures:
        print(f"\n{len(made.failures)} images were left out:", file=sys.stderr)
        print("\n".join(f"  {failure}" for failure in made.failures), file=sys.stderr)
        sys.exit(
            f"{advice(made)}, and give the same command again: it works on these alone. "
            "tools/proposal_files.py merge --allow-missing does without them."
        )


def advice(made: Made) -> str:
    """What to do about images that were left out."""
    if not made.model_failures:
        return "Mend or remove them"
    others = "" if made.model_failures == len(made.failures) else ", mend or remove the others"
    return (
        f"For {made.model_failures} of them the model's answer is not finite: MODEL.WEIGHTS may be "
        "damaged or of a training that diverged, or MODEL.INFERENCE.PRECISION too low. Change that "
        f"(other weights need --overwrite){others}"
    )


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line; None: that of the process."""
    parser = new_parser(__doc__)
    parser.add_argument("--config-file", required=True, help="path or name of a config")
    parser.add_argument("--dataset", required=True, metavar="NAME", help="a registered data set")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--shard", type=shard, default=(1, 1), metavar="I/N", help="work on one of N pieces only"
    )
    parser.add_argument(
        "--masks", action=argparse.BooleanOptionalAction, help="default: if the model makes them"
    )
    parser.add_argument(
        "--proposals-per-image", type=positive, metavar="N", help="keep the best N (default: all)"
    )
    parser.add_argument(
        "--limit", type=positive, metavar="N", help="the first N images only, to try things out"
    )
    parser.add_argument(
        "--part-size", type=positive, default=200, metavar="N",
        help="images in a part, which is what a killed run loses at most (default: 200)",
    )  # fmt: skip
    parser.add_argument(
        "--skip-errors", action="store_true",
        help="go on after an image that cannot be read; they are listed at the end",
    )  # fmt: skip
    parser.add_argument(
        "--overwrite", action="store_true", help="begin anew where there are finished parts"
    )
    add_overrides(parser)
    return parser.parse_args(argv)


def shard(text: str) -> tuple[int, int]:
    """``2/8`` as (2, 8), for argparse."""
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form I/N with I from 1 to N")
    return int(index), int(count)


def run(args: argparse.Namespace) -> Made:
    """Make the proposals of this shard, and the files if it was the last."""
    cfg = load_config(args.config_file, args.opts)
    register_config_datasets(cfg)
    if not cfg.MODEL.WEIGHTS:
        raise ConfigError(
            "MODEL.WEIGHTS is empty: name a checkpoint, for example "
            "MODEL.WEIGHTS output/model_final.pth"
        )
    check_limit(cfg, args.proposals_per_image)
    records = load_images(args.dataset, files_needed=not args.skip_errors)
    if args.limit and args.limit > len(records):
        raise ConfigError(f"--limit {args.limit}: {args.dataset} has {len(records)} images")
    how = Making(
        shard=args.shard,
        limit=args.limit,
        part_size=args.part_size,
        best=args.proposals_per_image,
        masks=args.masks,
        skip_errors=args.skip_errors,
        overwrite=args.overwrite,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )
    folder = PartFolder.of_dataset(Path(args.output), args.dataset)
    folder.path.mkdir(parents=True, exist_ok=True)  # now rather than after the first part
    model = build_inference_model(cfg)
    settings = proposal_settings(
        cfg, model, args.dataset, records,
        best=how.best, masks=how.masks is not False, ignored_keys=IGNORED_KEYS,
    )  # fmt: skip
    made = make_parts(model, records, build_mapper(cfg), folder, settings, how)
    report(made, folder, len(records), how)
    return made


def check_limit(cfg: CfgNode, best: int | None) -> None:
    """Raise ``ConfigError`` if more proposals are wanted than the model gives."""
    key = LIMIT_KEYS.get(cfg.MODEL.META_ARCHITECTURE)
    if best is not None and key is not None and best > config_value(cfg, key):
        raise ConfigError(
            f"--proposals-per-image {best} is more than {key} {config_value(cfg, key)}, which is "
            f"all that the model gives; raise it: {key} {best}"
        )


def build_mapper(cfg: CfgNode) -> Mapper:
    """What reads the images: whole for DeepMask and SharpMask; others have theirs resized."""
    if cfg.MODEL.META_ARCHITECTURE in SHARPMASK.meta_architectures:
        return WholeImageMapper(cfg.INPUT.FORMAT)
    return DatasetMapper(cfg, is_train=False)


def report(made: Made, folder: PartFolder, num_images: int, how: Making) -> None:
    """Say what was done; write the two files if everything is."""
    print(f"{made.images} images done" + (f", {made.before} before" if made.before else ""))
    if made.failures:
        return
    wanted = num_images if how.limit is None else how.limit
    missing = gaps(folder.parts(), 0, wanted)
    if missing:
        print(
            f"{sum(map(len, missing))} of {wanted} images are for other shards to do; the last "
            f"one to finish writes {folder.boxes_file}"
        )
        return
    merged = merge_parts(folder, allow_missing=how.limit is not None)
    print(
        f"{merged.proposals} proposals of {merged.images} images, at most {merged.most} of one: "
        + ", ".join(map(str, merged.files))
    )
    if merged.missing:
        print(f"{merged.missing} more images of the data set were not asked for")
    print(f"The finished parts in {folder.path} are not needed any more")


if __name__ == "__main__":
    main()
