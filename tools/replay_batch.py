#!/usr/bin/env python
"""Take a training step once more that was not finite, and say where it begins.

    python tools/replay_batch.py output/nonfinite_0001234.pth

A training writes such a file when a loss or a gradient is not finite (SOLVER.ON_NONFINITE). It has
the images and their ground truth, the weights before the step, the random state and the config.
Printed are the losses then and now, and the first value that is not finite: in the data, the
weights, a module's output, or a gradient.
"""

import argparse

from instseg_d2.command_line import new_parser, one_line_errors
from instseg_d2.engine.replay import StepRecord, replay


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and run; a mistake of the user ends in one line."""
    parser = new_parser(__doc__)
    parser.add_argument("file", metavar="FILE", help="nonfinite_*.pth of a training")
    parser.add_argument("--device", help="cpu, cuda, ... (default: that of the training)")
    args = parser.parse_args(argv)
    with one_line_errors(args):
        run(args)


def run(args: argparse.Namespace) -> None:
    """Replay, and print."""
    record = StepRecord.load(args.file)
    print(record.report)
    replayed = replay(record, args.device)
    print(f"\n{'loss':<20} {'then':>12} {'now':>12}")
    for name, value in replayed.losses.items():
        then = record.losses.get(name, float("nan"))
        print(f"{name:<20} {then:>12.5g} {value:>12.5g}")
    print(f"\nfirst value that is not finite: {replayed.first or 'none this time'}")
    if not replayed.first:
        print(
            "The step was finite now: another device, precision or version rounds differently, or "
            "gradients came from the other processes (whose files lie beside this one)."
        )


if __name__ == "__main__":
    main()
