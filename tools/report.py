#!/usr/bin/env python
"""One HTML file that says how good results are, and where they go wrong.

    python tools/report.py --run output/my_run
    python tools/report.py --results RESULTS.json --dataset coco_2017_val --output report.html
    python tools/report.py --results RESULTS.json --json ANNOTATIONS.json --images DIR

AP by class, size and overlap, curves, boundary AP, calibration of scores, confusions, the best and
the worst images, run time and config. The file needs no network and no other file: open it in any
browser, send it to others, print it.

--run finds the results, config, log and training curves of an evaluation (train_net.py, with
--eval-only or at the end of a training) by itself. KEY VALUE are overrides of the config, for
example DATASETS.SHAPES.NUM_VAL 100 for the embedded data set.
"""

import argparse
import shlex
import sys
from pathlib import Path

from detectron2.config import CfgNode

from instseg_d2.command_line import add_overrides, fraction, new_parser, one_line_errors, whole
from instseg_d2.config import load_config
from instseg_d2.data.config_datasets import register_config_datasets
from instseg_d2.errors import ConfigError
from instseg_d2.families import family_of
from instseg_d2.html_page import write_page
from instseg_d2.report.build import ReportOptions, build_report
from instseg_d2.report.results import read_results
from instseg_d2.report.run_folder import RunFolder, find_run
from instseg_d2.report.truth import Truth, file_truth, registered_truth


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and run; a mistake of the user ends in one line."""
    args = parse(argv)
    with one_line_errors(args):
        run(args, sys.argv[1:] if argv is None else argv)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line; None: that of the process."""
    parser = new_parser(__doc__)
    parser.add_argument("--run", metavar="DIR", help="OUTPUT_DIR of an evaluation")
    parser.add_argument(
        "--results", metavar="FILE", help="in COCO's format (default: those of the run)"
    )
    data = parser.add_mutually_exclusive_group()
    data.add_argument(
        "--dataset", metavar="NAME", help="registered (default: DATASETS.TEST of the config)"
    )
    data.add_argument("--json", metavar="FILE", help="annotations in COCO's format")
    parser.add_argument("--images", metavar="DIR", help="folder of the images, with --json")
    parser.add_argument(
        "--output", metavar="FILE", help="to write (default: report.html, in the run's folder)"
    )
    parser.add_argument(
        "--config-file", metavar="FILE", help="path or name (default: that of the run)"
    )
    parser.add_argument(
        "--min-score", type=fraction, default=0.3, metavar="SCORE",
        help="that detections need for errors, confusions and pictures (default: 0.3)",
    )  # fmt: skip
    parser.add_argument(
        "--pictures", type=whole, default=6, metavar="N",
        help="of the best images, and of the worst (default: 6)",
    )  # fmt: skip
    parser.add_argument(
        "--no-boundary", action="store_true", help="leave out boundary AP, which takes longest"
    )
    add_overrides(parser)
    args = parser.parse_args(argv)
    if not args.run and not args.results:
        parser.error("give --run DIR or --results FILE")
    if args.output and Path(args.output).suffix.lower() not in (".html", ".htm"):
        parser.error(
            f"--output {args.output}: the report is a page; give a name that ends in .html"
        )
    if args.images and not args.json:
        parser.error("--images DIR goes with --json FILE")
    return args


def run(args: argparse.Namespace, argv: list[str]) -> None:
    """Read, evaluate, write."""
    folder = find_run(Path(args.run)) if args.run else None
    cfg = config_of(args, folder)
    results_path = args.results or results_of(folder)
    if cfg is not None:
        check_has_classes(cfg)
    say("Reading annotations")
    truth = truth_of(args, cfg)
    say("Reading results")
    results = read_results(results_path, truth)
    options = ReportOptions(
        min_score=args.min_score,
        num_pictures=args.pictures,
        boundary=not args.no_boundary,
        command="python tools/report.py " + shlex.join(argv),
    )
    text = build_report(truth, results, options, cfg=cfg, run=folder, progress=say)
    output = Path(args.output or (folder.path if folder else Path()) / "report.html")
    output.parent.mkdir(parents=True, exist_ok=True)
    size = write_page(str(output), text)
    print(f"Wrote {output} ({size / 2**20:.1f} MB): open it in a browser")


def say(text: str) -> None:
    """Tell what is done next."""
    print(f"{text} ...", file=sys.stderr, flush=True)


def config_of(args: argparse.Namespace, folder: RunFolder | None) -> CfgNode | None:
    """What the results were made with, or None; embedded data is registered in any case."""
    path = args.config_file or (folder.config if folder else None)
    cfg = load_config(path or "", args.opts)
    register_config_datasets(cfg)
    return cfg if path else None


def results_of(folder: RunFolder | None) -> str:
    """The results of a run; there must be some."""
    if folder is None or folder.results is None:
        where = folder.path if folder else "."
        raise ConfigError(
            f"{where} has no inference/coco_instances_results.json. Evaluate first: train_net.py "
            f"--config-file CONFIG --eval-only MODEL.WEIGHTS FILE OUTPUT_DIR {where}"
        )
    return str(folder.results)


def check_has_classes(cfg: CfgNode) -> None:
    """Raise ``ConfigError`` for models of class-agnostic proposals."""
    family = family_of(cfg)
    if family is not None and family.classes_key is None:
        raise ConfigError(
            f"{cfg.MODEL.META_ARCHITECTURE} makes class-agnostic proposals, which have a recall "
            "but no AP by class: use tools/make_proposals.py and tools/evaluate_proposals.py"
        )


def truth_of(args: argparse.Namespace, cfg: CfgNode | None) -> Truth:
    """The data set that the command line or else the config names."""
    if args.json:
        return file_truth(args.json, args.images)
    names = (args.dataset,) if args.dataset else tuple(cfg.DATASETS.TEST) if cfg else ()
    if len(names) != 1:
        found = f"the config has {', '.join(names)}" if names else "no config names one"
        raise ConfigError(f"give --dataset NAME, or --json FILE and --images DIR: {found}")
    return registered_truth(names[0])


if __name__ == "__main__":
    main()
