#!/usr/bin/env python
"""Where the time of proposals goes: ``python tools/time_proposals.py [KEY VALUE ...]``.

DeepMask with each of its heads, and SharpMask, propose on one image in turns; the medians over the
rounds are printed by stage. Also: what SharpMask costs beside DeepMask, and what it saves to choose
windows before masks are computed. Weights are random, which hardly changes the time.

Overrides hold for all networks and must fit all: ``MODEL.SHARP_MASK.PROPOSALS.PRESET zoom``,
``MODEL.DEVICE cpu``.
"""

import argparse
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from instseg_d2.atomic_file import write_json_whole
from instseg_d2.command_line import add_overrides, new_parser, one_line_errors, positive
from instseg_d2.config import load_config
from instseg_d2.data.image_reading import read_image
from instseg_d2.inference import InferenceOptions, prepare_for_inference
from instseg_d2.modeling import build_model
from instseg_d2.stage_clock import StageClock
from sharpmask_d2.deepmask import DeepMask
from sharpmask_d2.full_image import ImageInput, find_windows, masks_of_level
from sharpmask_d2.pyramid import level_sizes

#: Columns of the table and their configs.
CONFIGS = {
    "head original": "sharpmask/deepmask_r50_head_original",
    "head A": "sharpmask/deepmask_r50_head_a",
    "head B": "sharpmask/deepmask_r50_head_b",
    "head C": "sharpmask/deepmask_r50",
    "SharpMask": "sharpmask/sharpmask_r50",
}
COARSE, SHARP = "head C", "SharpMask"
#: All windows of any image.
EVERYWHERE = 10**9


def main() -> None:
    """Parse the command line and run; a mistake of the user ends in one line."""
    parser = new_parser(__doc__)
    image = parser.add_mutually_exclusive_group()
    image.add_argument("--image", help="file; default: random pixels")
    image.add_argument(
        "--size", type=positive, nargs=2, default=(480, 640), metavar=("HEIGHT", "WIDTH"),
        help="of the random pixels (default: 480 640)",
    )  # fmt: skip
    parser.add_argument("--num", type=positive, default=500, help="proposals (default: 500)")
    parser.add_argument("--rounds", type=positive, default=3, help="default: 3")
    parser.add_argument("--threads", type=positive, help="CPU threads; default: all cores")
    parser.add_argument("--json", metavar="FILE", help="also write the numbers into a file")
    add_overrides(parser)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    with one_line_errors(args):
        run(args)


def run(args: argparse.Namespace) -> None:
    """Measure, print and write."""
    pixels = random_pixels(*args.size)
    if args.image:
        array = read_image({"file_name": args.image}, "RGB")
        pixels = torch.from_numpy(array.copy()).permute(2, 0, 1)
    models = build_models(args.num, args.opts)
    result = measure(models, {"image": pixels}, args.rounds)
    print(report(result))
    if args.json:
        write_json_whole(Path(args.json), result)


def random_pixels(height: int, width: int) -> torch.Tensor:
    """(3, height, width) uint8, always the same."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (3, height, width), generator=generator, dtype=torch.uint8)


def build_models(num: int, overrides: Sequence[str]) -> dict[str, DeepMask]:
    """Those of :data:`CONFIGS` with random weights, made fast as ``MODEL.INFERENCE`` says."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    models: dict[str, Any] = {}
    for name, config in CONFIGS.items():
        cfg = load_config(config, ["MODEL.DEVICE", device, *overrides])
        cfg.defrost()
        cfg.MODEL.SHARP_MASK.PROPOSALS.NUM = num
        torch.manual_seed(0)
        model = build_model(cfg).eval()
        models[name] = prepare_for_inference(model, InferenceOptions.from_config(cfg))
    return models


# --------------------------------------------------------------------------------------- measuring


def measure(models: Mapping[str, DeepMask], inputs: dict[str, Any], rounds: int) -> dict[str, Any]:
    """
    Args:
        models: those of :data:`CONFIGS`.
        inputs: of one image, see :meth:`DeepMask.predict_images`.
        rounds: in each of them every network has its turn.

    Returns:
        all of which is written as JSON; times in milliseconds, medians over the rounds.
    """
    stages: dict[str, list[dict[str, float]]] = {name: [] for name in models}
    everywhere: dict[str, list[float]] = {COARSE: [], SHARP: []}
    counts = {}
    for model in models.values():
        model.predict_images([inputs])  # the first time is slower
    for _ in range(rounds):
        for name, model in models.items():
            clock = StageClock(model.device)
            start = time.perf_counter()
            (answer,) = model.predict_images([inputs], clock)
            stages[name].append({**clock.seconds, "total": time.perf_counter() - start})
            counts[name] = len(answer["proposals"])
        for name, seconds in everywhere.items():
            windows, taken = masks_everywhere(models[name], inputs)
            seconds.append(taken)
    networks = {
        name: {"config": CONFIGS[name], "proposals": counts[name], "ms": _medians(stages[name])}
        for name in models
    }
    model = models[SHARP]
    return {
        "image": list(inputs["image"].shape[1:]),
        "scales": list(model.proposals.scales_of(*inputs["image"].shape[1:])),
        "num": model.proposals.num,
        "rounds": rounds,
        "device": _device_name(model.device),
        "threads": torch.get_num_threads(),
        "networks": networks,
        "sharp_over_coarse": networks[SHARP]["ms"]["total"] / networks[COARSE]["ms"]["total"],
        "windows": windows,
        "masks_everywhere": {
            name: _saving(networks[name]["ms"]["masks"], 1000 * statistics.median(seconds))
            for name, seconds in everywhere.items()
        },
    }


@torch.no_grad()
def masks_everywhere(model: DeepMask, inputs: dict[str, Any]) -> tuple[int, float]:
    """How many windows an image has, and the seconds that the masks of all of them take."""
    clock = StageClock(model.device)
    wanted = model.proposals
    model.proposals = replace(wanted, num=EVERYWHERE)
    image = ImageInput.read(inputs, model.device)
    sizes = level_sizes(image.size, wanted.scales_of(*image.size))
    found = find_windows(model, image, sizes)
    for level in range(len(sizes)):
        for _ in masks_of_level(model, image, found, level, clock):
            pass
    model.proposals = wanted
    return len(found.windows), clock.seconds["masks"]


def _medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {name: 1000 * statistics.median(each[name] for each in rounds) for name in rounds[0]}


def _saving(selected: float, everywhere: float) -> dict[str, float]:
    return {
        "selected_ms": selected,
        "everywhere_ms": everywhere,
        "times_as_much": everywhere / selected,
    }


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


# --------------------------------------------------------------------------------------- reporting


def report(result: dict[str, Any]) -> str:
    """The result, for people."""
    networks = result["networks"]
    rows = []
    for stage in networks[SHARP]["ms"]:
        times = [network["ms"] for network in networks.values()]
        cells = [f"{ms[stage]:.1f} ({ms[stage] / ms['total']:.0%})" for ms in times]
        rows.append([stage, *cells])
    table = tabulate(
        rows, headers=["ms (share)", *networks], tablefmt="presto", stralign="right",
        colalign=("left",),
    )  # fmt: skip
    height, width = result["image"]
    lines = [
        f"{height} x {width} (height x width), {len(result['scales'])} scales, the best "
        f"{result['num']} of {result['windows']} windows; {result['device']}, "
        f"{result['threads']} CPU thread(s); medians of {result['rounds']} round(s)",
        "",
        table,
        "",
        f"SharpMask takes {result['sharp_over_coarse']:.2f} x as long as DeepMask ({COARSE}).",
        "Masks at every window would take, beside those of the best windows:",
    ]
    for name, saving in result["masks_everywhere"].items():
        lines.append(
            f"  {name}: {saving['everywhere_ms']:.1f} ms, {saving['times_as_much']:.1f} x as much"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
