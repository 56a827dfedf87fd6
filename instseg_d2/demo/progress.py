"""What the demo has finished, so that the same command goes on where it was interrupted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from detectron2.config import CfgNode
from torch import nn

from ..part_file import PartFile, file_stamp
from ..run_settings import PLACE_KEYS, Settings, config_values, settings_of_model
from .detections import Wanted
from .report import Output

PART_FILE = "demo.part"


def demo_settings(
    cfg: CfgNode,
    model: nn.Module,
    wanted: Wanted,
    output: Output,
    *,
    max_pixels: int,
    limit: int | None,
    proposals_cfg: CfgNode | None,
) -> Settings:
    """What the demo's results depend on.

    Args:
        cfg: of the model.
        model: with its weights; those of a model that makes proposals for it are among them.
        wanted: which detections are kept.
        output: what is written.
        max_pixels: larger images are reduced.
        limit: the most frames of a video; None: all.
        proposals_cfg: of the model that makes proposals, if there is one.
    """
    of_proposals = {} if proposals_cfg is None else config_values(proposals_cfg, without=PLACE_KEYS)
    return Settings(
        {
            **settings_of_model(cfg, model),
            **asdict(wanted),
            "overlays": output.overlays,
            "JSON": output.json,
            "--format": output.suffix,
            "--codec": output.codec,
            "--save-iam": output.explain is not None,
            "--max-pixels": max_pixels,
            "--limit": limit,
            **{f"--proposals-from, {key}": value for key, value in of_proposals.items()},
        }
    )


class Progress(PartFile):
    """``demo.part``: an entry for each finished image, frame and video, by its name.

    Images and whole videos are gone on with; a video that was not finished is begun again, so that
    its frames follow each other.
    """

    def __init__(self, folder: Path, settings: Settings) -> None:
        """
        Args:
            folder: of the results; it exists.
            settings: what they depend on.

        Raises:
            ConfigError: another run is writing into the folder.
        """
        super().__init__(folder / PART_FILE, settings)

    def has(self, path: Path, results: Iterable[tuple[Path, ...]] = ()) -> bool:
        """Whether this very file is finished, and its results are there.

        Args:
            path: of an image or video.
            results: of each result the paths, of which one must exist.
        """
        if str(path) not in self or self[str(path)]["stamp"] != file_stamp(path):
            return False
        return all(any(result.exists() for result in paths) for paths in results)
