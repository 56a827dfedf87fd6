#!/usr/bin/env python
"""Check, merge, convert and invent files of proposals.

Two formats are known: Detectron2's precomputed proposals, a pickle of boxes, and results in COCO's
format, JSON with masks or boxes. Which one a file has is told by its content, and which one to
write by its name: .pkl or .json.
"""

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from instseg_d2.command_line import new_parser, one_line_errors, positive, whole
from instseg_d2.config import load_config
from instseg_d2.data.coco_json import check_coco_json, read_coco_json
from instseg_d2.data.config_datasets import register_config_datasets
from instseg_d2.data.image_reading import read_image
from instseg_d2.data.image_records import load_images
from instseg_d2.data.proposal_checks import check_proposals
from instseg_d2.data.proposal_convert import Conversion, convert_files
from instseg_d2.data.proposal_files import proposal_writer
from instseg_d2.data.proposal_merge import merge_parts
from instseg_d2.data.proposal_parts import PartFolder
from instseg_d2.data.proposal_random import random_proposals
from instseg_d2.errors import ConfigError, DataError

EXAMPLES = """
examples:
  does a file fit a data set?
    proposal_files.py check coco_2017_train_boxes.pkl --dataset coco_2017_train
  the parts that several machines made, copied into output/coco_2017_train_parts:
    proposal_files.py merge output
  published proposals, many JSON files with masks, as boxes for Fast R-CNN:
    proposal_files.py convert sharpmask-val/*.json sharpmask_val_boxes.pkl
  the same masks in one file, the best 100 of each image:
    proposal_files.py convert --best 100 sharpmask-val/*.json sharpmask_val_masks.json
  a baseline:
    proposal_files.py random random_boxes.pkl --dataset coco_2017_val --num 1000 --seed 1
"""


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and run; a mistake of the user ends in one line."""
    args = parse(argv)
    with one_line_errors(args):
        args.run(args)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line; None: that of the process."""
    parser = new_parser(__doc__, epilog=EXAMPLES)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("check", help="does a file fit a data set?")
    command.set_defaults(run=check)
    command.add_argument("file", metavar="FILE")
    _add_images(command)

    command = commands.add_parser("merge", help="finished parts into one file")
    command.set_defaults(run=merge)
    command.add_argument("folder", metavar="DIR", help="--output of tools/make_proposals.py")
    command.add_argument(
        "--allow-missing", action="store_true", help="also if some images are not done"
    )

    command = commands.add_parser("convert", help="one or many files into one")
    command.set_defaults(run=convert)
    command.add_argument("sources", metavar="IN", nargs="+", help="files to read, in this order")
    command.add_argument("dest", metavar="OUT", help="file to write: .pkl or .json")
    command.add_argument("--best", type=positive, metavar="N", help="keep the best N of each image")
    command.add_argument(
        "--raw-scores", action="store_true",
        help="leave scores as they are, instead of making logits of probabilities or the reverse",
    )  # fmt: skip
    command.add_argument(
        "--gather", action="store_true",
        help="proposals of an image need not stand together; takes memory for a whole file",
    )  # fmt: skip
    command.add_argument(
        "--empty-for", metavar="ANNOTATIONS",
        help="a COCO file: its images without proposals get an empty entry, which a .pkl needs",
    )  # fmt: skip
    command.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")

    command = commands.add_parser("random", help="random boxes, to compare with")
    command.set_defaults(run=invent)
    command.add_argument("dest", metavar="OUT", help="file to write: .pkl or .json")
    command.add_argument(
        "--num", type=positive, default=1000, help="boxes an image (default: 1000)"
    )
    command.add_argument("--seed", type=whole, default=0, help="another seed, other boxes")
    command.add_argument("--masks", action="store_true", help="the boxes as masks, too (.json)")
    command.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    _add_images(command)

    # KEY VALUE pairs may follow the options. Declared as an argument, argparse would look for them
    # where the first positional argument stands.
    args, rest = parser.parse_known_args(argv)
    if rest and (not hasattr(args, "dataset") or rest[0].startswith("-")):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    args.opts = rest
    return args


def _add_images(command: argparse.ArgumentParser) -> None:
    """Add the options that name images; KEY VALUE pairs may follow, for the embedded data set."""
    images = command.add_mutually_exclusive_group(required=True)
    images.add_argument("--dataset", metavar="NAME", help="a registered data set")
    images.add_argument("--annotations", metavar="FILE", help="or its COCO annotations")
    command.usage = f"{command.format_usage().removeprefix('usage: ').rstrip()} [KEY VALUE ...]"


def images_of(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The images' dicts, in Detectron2's data set format."""
    if args.annotations:
        return annotated_images(args.annotations)
    register_config_datasets(load_config("", args.opts))
    return load_images(args.dataset)


def annotated_images(path: str) -> list[dict[str, Any]]:
    """The images that a COCO file lists."""
    images = read_coco_json(path).get("images")
    if not isinstance(images, list) or not all(
        isinstance(image, dict) and "id" in image for image in images
    ):
        check_coco_json(path, "loading")
    return [{**image, "image_id": image["id"]} for image in images or ()]


def check_is_free(path: str, overwrite: bool) -> None:
    """Raise ``ConfigError`` for a file that would be lost."""
    if os.path.exists(path) and not overwrite:
        raise ConfigError(f"{path} exists; give another name, or --overwrite")


# ------------------------------------------------------------------------------------ commands


def check(args: argparse.Namespace) -> None:
    """``check``: print what is in the file."""
    report = check_proposals(args.file, images_of(args))
    kind = "masks" if report.has_masks else "boxes"
    print(
        f"{args.file} fits: {report.proposals} {kind} of {report.images} images, at most "
        f"{report.most} of one"
    )
    for note in report.notes():
        print(f"note: {note}")


def merge(args: argparse.Namespace) -> None:
    """``merge``: of every data set in the folder."""
    folders = PartFolder.all_in(Path(args.folder))
    if not folders:
        raise DataError(
            f"{args.folder} has no folder NAME_parts; give the --output of tools/make_proposals.py"
        )
    for folder in folders:
        merged = merge_parts(folder, allow_missing=args.allow_missing)
        print(
            f"{merged.proposals} proposals of {merged.images} images, at most {merged.most} of "
            f"one: {', '.join(map(str, merged.files))}"
        )
        if merged.missing:
            print(f"note: images of the data set that are missing: {merged.missing}")


def convert(args: argparse.Namespace) -> None:
    """``convert``: write one file."""
    check_is_free(args.dest, args.overwrite)
    if args.empty_for and not args.dest.endswith(".pkl"):
        raise ConfigError("--empty-for: only a .pkl can have entries of images without proposals")
    images = annotated_images(args.empty_for) if args.empty_for else []
    how = Conversion(
        best=args.best,
        raw_scores=args.raw_scores,
        gathered=args.gather,
        empty_for=[image["image_id"] for image in images],
    )
    done = convert_files(args.sources, args.dest, how)
    print(f"{done.proposals} proposals of {done.images} images: {args.dest}")
    if done.emptied:
        print(f"note: images without proposals, which got an empty entry: {done.emptied}")


def invent(args: argparse.Namespace) -> None:
    """``random``: the same boxes for the same seed, number of boxes and image."""
    check_is_free(args.dest, args.overwrite)
    if args.masks and not args.dest.endswith(".json"):
        raise ConfigError("--masks: only a .json can have masks")
    records = images_of(args)
    with proposal_writer(args.dest) as writer:
        for number, record in enumerate(tqdm(records, unit="image", disable=None)):
            if "height" not in record or "width" not in record:
                read_image(record, "RGB")  # sets them
            size = record["height"], record["width"]
            rng = np.random.default_rng([args.seed, number])
            writer.add(
                random_proposals(record["image_id"], size, args.num, rng, with_masks=args.masks)
            )
    print(f"{args.num} random boxes for each of {len(records)} images: {args.dest}")


if __name__ == "__main__":
    main()
