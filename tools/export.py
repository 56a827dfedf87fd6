#!/usr/bin/env python
"""Export a trained model for other programs: ONNX, torch.export or TorchScript.

    tools/export.py --config-file sparseinst/sparse_inst_r50_giam --format onnx \\
        --output model.onnx MODEL.WEIGHTS model_final.pth

The file takes any number of images of any size. It is compared with the model on sizes that it was
not exported with, and only written if it answers alike. Inputs and outputs: docs/export.md.
DeepMask and SharpMask become two files, model_windows.onnx and model_masks.onnx.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from instseg_d2.command_line import add_overrides, fraction, new_parser, one_line_errors, positive
from instseg_d2.config import load_config
from instseg_d2.data.config_datasets import register_config_datasets
from instseg_d2.errors import ConfigError
from instseg_d2.export.formats import FORMATS, check_libraries
from instseg_d2.export.parts import check_part_format, export_parts
from instseg_d2.export.run import check_output, export_model, graph_builder, write_verified
from instseg_d2.export.settings import TOLERANCES, ExportSettings
from instseg_d2.families import family_of
from instseg_d2.modeling import build_trained_model


def build_parser() -> argparse.ArgumentParser:
    """The parser of this program's arguments."""
    parser = new_parser(__doc__)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="path or name")
    parser.add_argument("--format", required=True, choices=tuple(FORMATS))
    parser.add_argument(
        "--output",
        required=True,
        type=Path,
        metavar="FILE",
        help="ends in " + ", ".join(f"{form.ending} ({name})" for name, form in FORMATS.items()),
    )
    parser.add_argument(
        "--precision",
        default="float32",
        choices=tuple(TOLERANCES),
        help="of weights and network; scores are always float32",
    )
    parser.add_argument(
        "--top-k",
        type=positive,
        metavar="N",
        help="most instances of an image (default: the config's MAX_DETECTIONS)",
    )
    parser.add_argument(
        "--score-threshold",
        type=fraction,
        metavar="S",
        help="drop instances whose final score is not above this (default: the config's)",
    )
    add_overrides(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the arguments, and export."""
    args = build_parser().parse_args(argv)
    with one_line_errors(args):
        run(args)


def run(args: argparse.Namespace) -> None:
    """Export, verify, write."""
    check_output(args.output, args.format)
    check_libraries(args.format)
    cfg = load_config(args.config_file, args.opts)
    cfg.MODEL.DEVICE = "cpu"  # what is exported runs anywhere
    family = family_of(cfg)
    build_parts = family.build_export_parts if family is not None else None
    if build_parts is None:
        graph_builder(cfg)
    else:
        check_part_format(args.format)
    if not cfg.MODEL.WEIGHTS:
        raise ConfigError(
            "MODEL.WEIGHTS is empty: name a checkpoint, for example "
            "MODEL.WEIGHTS output/model_final.pth"
        )
    register_config_datasets(cfg)
    settings = ExportSettings(
        top_k=args.top_k,
        precision=args.precision,
        is_bgr=cfg.INPUT.FORMAT == "BGR",
        score_threshold=args.score_threshold,
    )
    model = build_trained_model(cfg)
    if build_parts is not None:
        files = build_parts(cfg, model, settings, args.config_file)
        export_parts(files, args.format, args.output)
        return
    form = FORMATS[args.format]
    content, results = export_model(cfg, model, settings, form, args.config_file)
    write_verified(args.output, content, results, settings)


if __name__ == "__main__":
    main()
