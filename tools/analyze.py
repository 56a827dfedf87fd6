#!/usr/bin/env python
"""What a model costs: ``python tools/analyze.py --config-file NAME [KEY VALUE ...]``.

Prints parameters, multiply-adds and activations by part, for the network alone. SparseInst: from
the normalised image to the decoder's outputs, without scoring and without masks at the image's
size. DeepMask and SharpMask: from one training patch to its score and masks. How it is counted:
instseg_d2/analysis.py. It runs on the CPU, whatever MODEL.DEVICE says.

``--zoo-table docs/model_zoo.md`` measures every config in that page's table anew.
"""

import argparse
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.data.transforms import ResizeShortestEdge
from tabulate import tabulate
from torch import nn

from instseg_d2.analysis import Analysis, Chain, analyze
from instseg_d2.atomic_file import write_json_whole, written_whole
from instseg_d2.command_line import add_overrides, new_parser, one_line_errors, positive
from instseg_d2.config import load_config
from instseg_d2.errors import ConfigError
from instseg_d2.modeling import build_model
from sharpmask_d2 import SharpMask

COCO_SIZE = (480, 640)
"""Height and width of the commonest image in COCO."""

PARAMS_COLUMN, FLOPS_COLUMN = "params (M)", "GFLOPs"


def main() -> None:
    """Parse the command line and run; a mistake of the user ends in one line."""
    parser = new_parser(__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--config-file", help="path or name of a config")
    what.add_argument("--zoo-table", metavar="FILE", help="update the table in a Markdown file")
    parser.add_argument(
        "--size", type=positive, nargs=2, metavar=("HEIGHT", "WIDTH"),
        help="of the image; default: what INPUT.{MIN,MAX}_SIZE_TEST make of one of 480 x 640",
    )  # fmt: skip
    parser.add_argument("--batch", type=positive, default=1, help="images (default: 1)")
    parser.add_argument("--depth", type=positive, default=2, help="of the parts (default: 2)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--table", action="store_true", help="print a table (the default)")
    form.add_argument("--json", metavar="FILE", help="write exact numbers into a file instead")
    add_overrides(parser)
    args = parser.parse_args()
    if args.zoo_table and args != parser.parse_args(["--zoo-table", args.zoo_table]):
        parser.error("--zoo-table FILE stands alone: every config is measured as it is")
    with one_line_errors(args):
        if args.zoo_table:
            update_zoo_page(Path(args.zoo_table))
        else:
            run(args)


def run(args: argparse.Namespace) -> None:
    """Measure one config; print or write the result."""
    measured = measure(
        load_config(args.config_file, args.opts),
        size=args.size,
        batch=args.batch,
        depth=args.depth,
    )
    if args.json:
        write_json_whole(Path(args.json), {"config": args.config_file, **asdict(measured)})
    else:
        print(f"{args.config_file}\n{report(measured)}")


# ------------------------------------------------------------------------------------- measuring


@dataclass(frozen=True)
class Measured:
    """A network's costs.

    Attributes:
        image_size: (height, width) before padding.
        input_shape: of the tensor that the network takes: (B, 3, H, W), padded.
        analysis: what it costs.
    """

    image_size: tuple[int, int]
    input_shape: tuple[int, int, int, int]
    analysis: Analysis


def sparseinst_network(model: nn.Module) -> Chain:
    """Image tensor -> outputs of the decoder."""
    return Chain(backbone=model.backbone, encoder=model.encoder, decoder=model.decoder)


class PatchNetwork(nn.Module):
    """DeepMask or SharpMask: patches (B, 3, P, P) -> scores and masks.

    Attributes:
        input_size: (P, P).
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = model.backbone, model.head
        if isinstance(model, SharpMask):
            self.refinement = model.refinement
        # In a tuple, so that its parts are not registered twice.
        self._model = (model,)
        side = model.window_size + 2 * model.context
        self.input_size = (side, side)

    def forward(self, patches: torch.Tensor) -> tuple[torch.Tensor, ...]:
        model = self._model[0]
        features, output = model.patch_output(patches)
        encodings = output.encoding.flatten(1)
        masks = model.coarse_masks(encodings, model.window_size)
        if not isinstance(model, SharpMask):
            return output.score_logits, masks
        return output.score_logits, masks, model.sharp_masks(encodings, model.skips(features))


#: By ``MODEL.META_ARCHITECTURE``: the model -> its network, a module that takes (B, 3, H, W), of
#: its ``input_size`` if it has one, else of multiples of the model's ``size_divisibility``.
NETWORKS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "SparseInst": sparseinst_network,
    "DeepMask": PatchNetwork,
    "SharpMask": PatchNetwork,
}


def measure(
    cfg: CfgNode, *, size: tuple[int, int] | None = None, batch: int = 1, depth: int = 2
) -> Measured:
    """
    Args:
        cfg: of the model; its weights are not loaded, since they change nothing here.
        size: (height, width) of the image; None for :func:`inference_size`, or for the patch.
        batch, depth: images; levels of parts.

    Raises:
        ConfigError: an architecture that is not in :data:`NETWORKS`, a wrong name or value, or a
            size for a network that takes patches.
    """
    architecture = cfg.MODEL.META_ARCHITECTURE
    if architecture not in NETWORKS:
        raise ConfigError(
            f"MODEL.META_ARCHITECTURE is {architecture}; this tool can measure "
            + ", ".join(NETWORKS)
        )
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.JOIN_FROZEN_NORMS = False  # papers count norms apart
    model = build_model(cfg).eval()
    network = NETWORKS[architecture](model)
    patch_size = getattr(network, "input_size", None)
    if size and patch_size:
        raise ConfigError(
            f"{architecture} is measured on a patch: give MODEL.SHARP_MASK.WINDOW_SIZE, not --size"
        )
    height, width = size or patch_size or inference_size(cfg)
    step = 1 if patch_size else model.size_divisibility
    input_shape = (batch, 3, -(-height // step) * step, -(-width // step) * step)
    analysis = analyze(network, torch.zeros(input_shape), depth=depth)
    return Measured((height, width), input_shape, analysis)


def inference_size(cfg: CfgNode) -> tuple[int, int]:
    """Height and width of what inference makes of an image of :data:`COCO_SIZE`."""
    if cfg.INPUT.MIN_SIZE_TEST == 0:  # Detectron2's way to say: as it is
        return COCO_SIZE
    return ResizeShortestEdge.get_output_shape(
        *COCO_SIZE, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
    )


def report(measured: Measured) -> str:
    """The result, for people."""
    analysis = measured.analysis
    rows = [
        ("  " * name.count(".") + name, cost.params / 1e6, cost.flops / 1e9, cost.activations / 1e6)
        for name, cost in {**analysis.parts, "total": analysis.total}.items()
    ]
    table = tabulate(
        rows, headers=["part", PARAMS_COLUMN, FLOPS_COLUMN, "activations (M)"], floatfmt=".2f",
        tablefmt="presto", preserve_whitespace=True,
    )  # fmt: skip
    operators = sorted(analysis.total.by_operator.items(), key=lambda item: -item[1])
    batch, _, height, width = measured.input_shape
    image_height, image_width = measured.image_size
    lines = [
        f"Input: {batch} x {image_height} x {image_width} (height x width), "
        f"padded to {height} x {width}",
        "",
        table,
        "",
        "GFLOPs are 10^9 multiply-adds, as fvcore counts them: "
        + ", ".join(f"{name} {count / 1e9:.2f}" for name, count in operators),
    ]
    if analysis.uncounted:
        names = ", ".join(f"{name} ({count}x)" for name, count in analysis.uncounted.items())
        lines.append(f"NOT counted, for want of a rule in instseg_d2/analysis.py: {names}")
    return "\n".join(lines)


# ---------------------------------------------------------------------------- the model zoo page


@dataclass(frozen=True)
class ZooRow:
    """A row of the page's table.

    Attributes:
        line: its index in the page.
        config: name of the config that it links to.
        cells: its texts, by the head of their column.
    """

    line: int
    config: str
    cells: dict[str, str]


def zoo_rows(text: str) -> Iterator[ZooRow]:
    """The rows of tables that link to a config and have both measured columns."""
    heads: list[str] = []
    for index, line in enumerate(text.splitlines()):
        if not line.startswith("|"):
            heads = []
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        heads = heads or cells
        link = re.search(r"\]\((?:\.\./)?configs/([\w/.-]+)\.yaml\)", line)
        if link and {PARAMS_COLUMN, FLOPS_COLUMN} <= set(heads):
            yield ZooRow(index, link[1], dict(zip(heads, cells, strict=True)))


def update_zoo_page(page: Path) -> None:
    """Measure every config in the page's table, each at its own test size, and write the page.

    Raises:
        ConfigError: there is no such table, or it names a config that is not there.
    """

    @cache  # a config may have several published results
    def measured_cells(config: str) -> dict[str, str]:
        print(f"{config} ...", flush=True)
        measured = measure(load_config(config), depth=1)
        if measured.analysis.uncounted:
            raise ConfigError(f"{config}: {report(measured).splitlines()[-1]}")
        total = measured.analysis.total
        return {
            PARAMS_COLUMN: f"{total.params / 1e6:.2f}",
            FLOPS_COLUMN: f"{total.flops / 1e9:.1f}",
        }

    text = page.read_text()
    rows = list(zoo_rows(text))
    if not rows:
        raise ConfigError(
            f"{page}: no table with links to configs and the columns "
            f"{PARAMS_COLUMN!r} and {FLOPS_COLUMN!r}"
        )
    lines = text.splitlines()
    for row in rows:
        cells = row.cells | measured_cells(row.config)
        lines[row.line] = f"| {' | '.join(cells.values())} |"
    with written_whole(str(page)) as file:
        file.write(("\n".join(lines) + "\n").encode())
    print(f"Wrote {page}: {len(rows)} rows")


if __name__ == "__main__":
    main()
