#!/usr/bin/env python
"""Find what is wrong with a data set in COCO's format, and show what is in it.

    python tools/check_dataset.py --json annotations.json --images DIR --output DIR
    python tools/check_dataset.py --dataset coco_2017_train --output DIR

prints the problems, by code, and the statistics. An error is what makes training or evaluation
fail or be silently wrong; a warning, what is lost or probably not meant; a note is good to know.
--output receives

    problems.csv, report.json    all problems; the latter with the statistics
    statistics.png               plots
    sheet.html                   problems, plots and annotated images, in one file to look through

A file of COCO's size (118,000 images, 860,000 annotations, 490 MB) takes 140 seconds of one core
and 3.9 GB of memory; reading the images comes on top.

Exit status, for scripts: 0: no errors, 1: errors (with --strict, or warnings), 2: the command line
or the file of annotations cannot be used.
"""

import argparse
import os
import sys

from detectron2.data import DatasetCatalog, MetadataCatalog

from instseg_d2.command_line import add_overrides, new_parser, one_line_errors, positive, whole
from instseg_d2.config import load_config
from instseg_d2.data.checks import load_registered
from instseg_d2.data.config_datasets import register_config_datasets
from instseg_d2.dataset_check.check import CheckedData, check_dataset
from instseg_d2.dataset_check.codes import KINDS
from instseg_d2.dataset_check.pictures import choose_images, samples_of
from instseg_d2.dataset_check.plots import save_plots
from instseg_d2.dataset_check.results import text_report, write_reports
from instseg_d2.dataset_check.sheet import write_sheet
from instseg_d2.dataset_check.statistics import Statistics, statistics_of
from instseg_d2.errors import DataError


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and run; a mistake of the user ends in one line and status 2."""
    args = parse(argv)
    with one_line_errors(args, status=2):
        sys.exit(run(args))


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line; None: that of the process."""
    codes = "\n".join(f"  {code} ({kind.severity}): {kind.meaning}" for code, kind in KINDS.items())
    parser = new_parser(__doc__, epilog=f"codes:\n{codes}")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--json", metavar="FILE", help="annotations in COCO's format")
    source.add_argument("--dataset", metavar="NAME", help="or a registered data set in that format")
    parser.add_argument("--images", metavar="DIR", help="folder of the images, with --json")
    parser.add_argument("--no-images", action="store_true", help="do not look at the images")
    parser.add_argument("--output", metavar="DIR", help="folder for reports, plots and the sheet")
    parser.add_argument(
        "--ignore", metavar="CODE", action="append", default=[], choices=list(KINDS),
        help="do not report problems with this code; may be given several times",
    )  # fmt: skip
    parser.add_argument("--strict", action="store_true", help="warnings lead to exit status 1 too")
    parser.add_argument(
        "--most", type=whole, default=10, metavar="N", help="problems of a code that are printed"
    )
    parser.add_argument(
        "--samples", type=whole, default=60, metavar="N", help="images in the sheet (default: 60)"
    )
    parser.add_argument(
        "--workers", type=positive, default=min(8, os.cpu_count() or 1), metavar="N",
        help="threads that read images",
    )  # fmt: skip
    add_overrides(parser)
    args = parser.parse_args(argv)
    if args.dataset and args.images:
        parser.error("--images belongs to --json; a registered data set knows its folder")
    if args.json and not args.images and not args.no_images:
        parser.error("--json needs --images DIR, or --no-images")
    if args.json and args.opts:
        parser.error(f"unrecognized arguments: {' '.join(args.opts)}")
    return args


def run(args: argparse.Namespace) -> int:
    """Check, print and write; the exit status."""
    json_file, image_root = find_data(args)
    if args.output:
        os.makedirs(args.output, exist_ok=True)  # now rather than after the work
    data = check_dataset(json_file, image_root, ignored=args.ignore, num_workers=args.workers)
    statistics = statistics_of(data)
    print("\n".join(statistics.lines()), end="\n\n")
    print(text_report(data.problems, args.most))
    if args.output:
        write(args, data, statistics)
    return data.problems.exit_status(args.strict)


def find_data(args: argparse.Namespace) -> tuple[str, str | None]:
    """The file of annotations, and the folder of images unless they are not wanted."""
    if args.json:
        json_file, image_root = args.json, args.images
    else:
        register_config_datasets(load_config("", args.opts))
        if args.dataset not in DatasetCatalog:
            load_registered(args.dataset)  # says what names there are
        metadata = MetadataCatalog.get(args.dataset)
        json_file, image_root = metadata.get("json_file"), metadata.get("image_root")
        if metadata.get("evaluator_type") != "coco" or not json_file:
            raise DataError(f"data set '{args.dataset}' is not registered in COCO's format")
        if not os.path.isfile(json_file):
            load_registered(args.dataset)  # says where it is looked for
    if args.no_images:
        return json_file, None
    if not os.path.isdir(image_root):
        raise DataError(f"the image folder {image_root} does not exist; --no-images does without")
    return json_file, image_root


def write(args: argparse.Namespace, data: CheckedData, statistics: Statistics) -> None:
    """The files of ``--output``."""
    written = write_reports(data, statistics, args.output)
    png, sheet = (os.path.join(args.output, name) for name in ("statistics.png", "sheet.html"))
    save_plots(statistics, png)
    chosen = choose_images(data, args.samples) if data.image_root is not None else []
    write_sheet(sheet, data, statistics, samples_of(data, chosen), max(args.most, 100))
    print("\nwritten: " + ", ".join([*written, png, sheet]))


if __name__ == "__main__":
    main()
