#!/usr/bin/env python
"""Pictures of what a trained DeepMask or SharpMask makes of held-out patches.

``python tools/show_patches.py --config-file configs/sharpmask/sharpmask_r50.yaml MODEL.WEIGHTS
output/sharpmask_r50/model_final.pth`` writes one row a patch of ``DATASETS.TEST``: the patch, its
true mask, the predicted one with its IoU (of SharpMask the coarse and the sharp one).
"""

import argparse
from pathlib import Path

from instseg_d2.command_line import add_overrides, new_parser, one_line_errors, positive
from instseg_d2.config import load_config
from instseg_d2.data.config_datasets import register_config_datasets
from instseg_d2.errors import ConfigError
from instseg_d2.picture_files import save_picture
from sharpmask_d2 import FAMILY
from sharpmask_d2.patch_pictures import draw_held_out_patches


def main() -> None:
    """Parse the command line and run; a mistake of the user ends in one line."""
    parser = new_parser(__doc__)
    parser.add_argument("--config-file", required=True, help="path or name of a config")
    parser.add_argument("--count", type=positive, default=8, help="patches in the picture")
    parser.add_argument("--output", default="patches.png", help="file to write, .png or .jpg")
    add_overrides(parser)
    args = parser.parse_args()
    with one_line_errors(args):
        run(args)


def run(args: argparse.Namespace) -> None:
    """Load, predict, draw."""
    cfg = load_config(args.config_file, args.opts)
    architecture = cfg.MODEL.META_ARCHITECTURE
    if architecture not in FAMILY.meta_architectures:
        raise ConfigError(
            f"MODEL.META_ARCHITECTURE is {architecture!r}; patches are of "
            f"{' and '.join(FAMILY.meta_architectures)}"
        )
    register_config_datasets(cfg)
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    save_picture(args.output, draw_held_out_patches(cfg, args.count))
    print(f"Pictures (patch, true mask, predicted masks): {args.output}")


if __name__ == "__main__":
    main()
