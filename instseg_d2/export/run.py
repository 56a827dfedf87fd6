"""From a config and a checkpoint to a verified file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from torch import nn

import instseg_d2
from instseg_d2.atomic_file import written_whole
from instseg_d2.errors import ConfigError
from instseg_d2.families import config_value, family_of
from instseg_d2.inference import InferenceOptions, prepare_for_inference

from .formats import FORMATS, ExportError, Format
from .settings import TOLERANCES, ExportBuilder, ExportSettings
from .verify import NO_OUTLINES, Comparison, compare, pictures, table

#: (height, width) of the images that the graphs are traced with: odd, as to_program wants them.
EXAMPLE_SIZE = (101, 159)
#: (batch, height, width) of those they are compared on: other sizes, one a multiple of 32.
CHECKS = ((1, 320, 416), (2, 219, 157))


def graph_builder(cfg: CfgNode) -> ExportBuilder:
    """What makes a graph of the model of this config.

    Raises:
        ConfigError: nothing does.
    """
    family = family_of(cfg)
    if family is not None and family.build_export is not None:
        return family.build_export
    raise ConfigError(
        f"MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE} cannot be exported: how many "
        "regions it looks at depends on the image, and no graph is made for that here; for "
        "Detectron2's own models see its tools/deploy/export_model.py"
    )


def export_model(
    cfg: CfgNode, model: nn.Module, settings: ExportSettings, form: Format, name: str
) -> tuple[bytes, list[Comparison]]:
    """The content of the file, and how it compares with the model.

    Args:
        cfg: of the model.
        model: trained, in eval mode, on the CPU; it is not changed.
        settings: what is wanted.
        form: the file's format.
        name: of the config, for the metadata.
    """
    prepared: Any = prepare_for_inference(model, InferenceOptions(channels_last=False))
    graph: Any = graph_builder(cfg)(prepared, settings)
    example = torch.from_numpy(pictures(2, *EXAMPLE_SIZE))
    content = form.write(graph, example, metadata(cfg, graph, settings, name))
    run = form.read(content)
    prepared.postprocess_options = replace(graph.options, max_detections=graph.top_k)
    tolerances = TOLERANCES[settings.precision]
    results = [
        compare(prepared, run, pictures(*batch), tolerances, is_bgr=settings.is_bgr)
        for batch in CHECKS
    ]
    return content, results


def metadata(cfg: CfgNode, graph: Any, settings: ExportSettings, name: str) -> dict[str, str]:
    """What a program that runs the graph needs to know, as JSON by key."""
    options = graph.options
    values = {
        "product": f"instseg-d2 {instseg_d2.__version__}",
        "config": name,
        "class_names": class_names(cfg),
        "input": "images (B, H, W, 3) uint8 RGB",
        "min_size": cfg.INPUT.MIN_SIZE_TEST,
        "max_size": cfg.INPUT.MAX_SIZE_TEST,
        "pixel_mean": list(cfg.MODEL.PIXEL_MEAN),
        "pixel_std": list(cfg.MODEL.PIXEL_STD),
        "pixel_order": cfg.INPUT.FORMAT,
        "precision": settings.precision,
        "top_k": graph.top_k,
        "cls_threshold": options.cls_threshold,
        "mask_threshold": options.mask_threshold,
        "score_threshold": options.score_threshold,
    }
    return {key: json.dumps(value) for key, value in values.items()}


def class_names(cfg: CfgNode) -> list[str]:
    """Of the data set to test or train on, if it has as many as the model; else ``class 0`` and so
    on."""
    family = family_of(cfg)
    assert family is not None
    assert family.classes_key is not None
    count = config_value(cfg, family.classes_key)
    for dataset in (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN):
        names = MetadataCatalog.get(dataset).get("thing_classes")
        if names is not None and len(names) == count:
            return list(names)
    return [f"class {index}" for index in range(count)]


def write_verified(
    path: Path, content: bytes, results: Sequence[Comparison], settings: ExportSettings
) -> None:
    """Print the comparison, and write the file if it holds.

    Raises:
        ExportError: it does not; no file is written.
    """
    tolerances = TOLERANCES[settings.precision]
    print(table(results, tolerances))
    if not all(result.holds(tolerances) for result in results):
        raise ExportError(
            f"the exported graph does not answer as the model does (wanted: scores within "
            f"{tolerances.score}, mask IoU above {tolerances.mask_iou}, equal labels); {path} was "
            "not written"
        )
    if not any(result.instances for result in results):
        print(
            "Note: at these thresholds the model finds nothing on the pictures of the comparison, "
            "so neither scores nor masks were compared. Export once with --score-threshold 0 to "
            "see them compared."
        )
    elif not any(result.outlined for result in results):
        print(NO_OUTLINES)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(str(path)) as file:
        file.write(content)
    print(f"{path}: {len(content) / 1e6:.1f} MB")


def check_output(path: Path, name: str) -> None:
    """Raise ``ConfigError`` if the file's ending is not the format's."""
    ending = FORMATS[name].ending
    if path.suffix != ending:
        raise ConfigError(f"--output {path}: files of --format {name} end in {ending}")
