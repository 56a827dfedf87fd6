"""The command-line options for own data; each stands for a key in ``DATASETS.OWN``."""

import argparse

OPTIONS = {
    "--train-json": ("TRAIN_JSON", "FILE", "annotations of your training data, in COCO's format"),
    "--train-images": ("TRAIN_IMAGES", "FOLDER", "its images"),
    "--val-json": ("VAL_JSON", "FILE", "annotations of the data to evaluate on"),
    "--val-images": ("VAL_IMAGES", "FOLDER", "its images"),
}


def add_own_data_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--train-json``, ``--train-images``, ``--val-json`` and ``--val-images``."""
    group = parser.add_argument_group("own data")
    for option, (key, metavar, text) in OPTIONS.items():
        group.add_argument(option, metavar=metavar, help=f"{text} (DATASETS.OWN.{key})")


def own_data_overrides(args: argparse.Namespace) -> list[str]:
    """The options that were given, as config overrides ``[KEY, VALUE, ...]``."""
    overrides = []
    for option, (key, *_) in OPTIONS.items():
        value = getattr(args, option.removeprefix("--").replace("-", "_"))
        if value is not None:
            overrides += [f"DATASETS.OWN.{key}", repr(value)]  # a folder named 2017 is no number
    return overrides
