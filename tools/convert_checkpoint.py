#!/usr/bin/env python
"""Convert a checkpoint to another file format, other names or another precision.

What SOURCE holds is told by its content: PyTorch files with or without training state, Detectron2's
and Caffe2's .pkl, .safetensors, FAIR's DeepMask and SharpMask of Lua Torch7 (model.t7); weights of
whole models, and ImageNet backbones under the names of torchvision, timm, PVT's authors, Detectron2
or Caffe2. DEST's suffix names the format to write: .pth, .pkl or .safetensors.
"""

import argparse

from instseg_d2.command_line import new_parser, one_line_errors
from instseg_d2.weights.convert import DTYPES, LIBRARIES, NATIVE, Options, convert_file

EPILOG = """
names:
  By default ImageNet backbones and files of Caffe2 get the names that backbones have here and in
  Detectron2, without a prefix (stem.conv1.weight, res2.0.conv1.weight, ...), as in Detectron2's own
  R-50.pkl; their classifier is dropped. DEST can be given as MODEL.WEIGHTS here and, but for
  .safetensors, in Detectron2: it is marked so that names are matched by their ends. Weights of
  torchvision and timm expect in Detectron2 INPUT.FORMAT RGB, MODEL.RESNETS.STRIDE_IN_1X1 False,
  MODEL.PIXEL_MEAN [123.675,116.28,103.53] and MODEL.PIXEL_STD [58.395,57.12,57.375], which the
  configs here have.
  Whole models keep their names, but for the prefix 'module.' of models wrapped for several GPUs;
  DeepMask and SharpMask of the PyTorch port and of FAIR's Torch7 code get those here, and
  SharpMask's refinement of FORM original becomes FORM refactored.

examples:
  an ImageNet file of torchvision as a backbone:
    convert_checkpoint.py resnet50-11ad3fa6.pth R-50.pkl
  a trained model without training state, in half precision:
    convert_checkpoint.py output/model_final.pth model.safetensors --dtype float16
  the backbone of a trained model for torchvision:
    convert_checkpoint.py output/model_final.pth resnet50.pth --part backbone --to-names torchvision
  FAIR's weights of 2016; the note says which config they need:
    convert_checkpoint.py model.t7 deepmask.pth
"""


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and convert; a mistake of the user ends in one line."""
    args = parse(argv)
    options = Options(
        to_names=args.to_names,
        part=args.part,
        dtype=DTYPES[args.dtype] if args.dtype else None,
        keep_classifier=args.keep_classifier,
        keep_training_state=args.keep_training_state,
    )
    # Weights are also read where configs say how strictly; here options do.
    names = {
        "MODEL.LOADING.TRUST_FILE True": "--trust",
        "MODEL.LOADING.VERIFY_HASH False": "--no-verify",
    }
    with one_line_errors(args, names=names):
        said = convert_file(
            args.source,
            args.dest,
            options,
            trust_file=args.trust,
            overwrite=args.overwrite,
            verify_hash=not args.no_verify,
        )
    width = max(len(topic) for topic, _ in said) + 2
    for topic, text in said:
        print(f"{topic + ':':{width}}{text}")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line; None: that of the process."""
    parser = new_parser(__doc__, epilog=EPILOG)
    parser.add_argument("source", metavar="SOURCE", help="the checkpoint to read")
    parser.add_argument("dest", metavar="DEST", help="the file to write; must not exist")
    parser.add_argument(
        "--to-names", choices=[NATIVE, *LIBRARIES], default=NATIVE,
        help="names to give: those here (default) or, to a backbone alone, those of a library",
    )  # fmt: skip
    parser.add_argument(
        "--part", default="", metavar="NAME",
        help="only the tensors below this name, without it; for example backbone",
    )  # fmt: skip
    parser.add_argument("--dtype", choices=DTYPES, help="precision of the floating-point tensors")
    parser.add_argument(
        "--keep-classifier", action="store_true",
        help="keep the classifier of an ImageNet model also under the names here",
    )  # fmt: skip
    parser.add_argument(
        "--keep-training-state", action="store_true",
        help="keep optimizer, iteration and the like of a whole model; .pth only",
    )  # fmt: skip
    parser.add_argument(
        "--trust", action="store_true",
        help="read SOURCE even if that runs code in it; only if you trust where it comes from",
    )  # fmt: skip
    parser.add_argument(
        "--no-verify", action="store_true",
        help="do not check SOURCE against the digits of a hash at the end of its name",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace DEST if it exists")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
