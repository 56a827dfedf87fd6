#!/usr/bin/env python
"""How many objects the proposals of a file find: average recall, as COCO defines it.

``python tools/evaluate_proposals.py --proposals proposals.json --dataset coco_2017_val`` prints AR
with the best 10, 100 and 1000 proposals of each image, by the objects' size, and the area under AR.
The file is Detectron2's pickle of boxes or COCO's results in JSON, with masks or without.
``--output DIR`` also writes the numbers, all curves and two plots.

KEY VALUE are overrides of the config, for the embedded data set: DATASETS.SHAPES.NUM_VAL 100.
"""

import argparse

from tqdm import tqdm

from instseg_d2.command_line import add_overrides, new_parser, one_line_errors, positive
from instseg_d2.config import load_config
from instseg_d2.data.config_datasets import register_config_datasets
from instseg_d2.data.proposal_files import read_proposal_file
from instseg_d2.errors import DataError
from sharpmask_d2.proposal_recall import ProposalRecall
from sharpmask_d2.recall_objects import GroundTruth, dataset_ground_truth, read_ground_truth
from sharpmask_d2.recall_report import DEFAULT_LIMITS, RecallReport, checked_limits, depth_for


def main() -> None:
    """Parse the command line and run; a mistake of the user ends in one line."""
    parser = new_parser(__doc__)
    parser.add_argument("--proposals", required=True, metavar="FILE", help="to evaluate")
    objects = parser.add_mutually_exclusive_group(required=True)
    objects.add_argument("--dataset", metavar="NAME", help="registered, such as coco_2017_val")
    objects.add_argument("--annotations", metavar="FILE", help="in COCO format")
    parser.add_argument(
        "--limits", type=numbers, default=DEFAULT_LIMITS, metavar="N,N,...",
        help="numbers of proposals to state the recall at (default: 10,100,1000)",
    )  # fmt: skip
    parser.add_argument(
        "--images-in-file", action="store_true",
        help="leave out images that the file does not list, instead of counting their objects as "
        "missed",
    )  # fmt: skip
    parser.add_argument("--output", metavar="DIR", help="folder for proposal_recall.json and plots")
    add_overrides(parser)
    args = parser.parse_args()
    with one_line_errors(args):
        run(args)


def numbers(text: str) -> list[int]:
    """Whole numbers above 0 with commas between them, for argparse."""
    try:
        return [positive(part) for part in text.split(",")]
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}; give some, such as 10,100,1000") from error


def run(args: argparse.Namespace) -> None:
    """Read, match, report."""
    limits = checked_limits(args.limits)
    truth = ground_truth(args)
    recall = ProposalRecall(depth_for(limits))
    bar = tqdm(read_proposal_file(args.proposals), total=len(truth), unit="image", disable=None)
    for proposals in bar:
        recall.add_image(truth[proposals.image_id], proposals)
    if not recall.num_proposals:
        raise DataError(f"{args.proposals} has no proposals.")
    if args.images_in_file:
        truth = truth.only(recall.num_proposals)
    report = RecallReport.of(recall, truth, limits)
    print(report.table())
    if args.output:
        report.write(args.output)
        print(f"Curves and all numbers: {args.output}")


def ground_truth(args: argparse.Namespace) -> GroundTruth:
    """The objects to be found."""
    if args.annotations:
        return read_ground_truth(args.annotations)
    register_config_datasets(load_config("", args.opts))
    return dataset_ground_truth(args.dataset)


if __name__ == "__main__":
    main()
