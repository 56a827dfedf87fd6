"""Models that are exported as several graphs, between which another program chooses what to do.

Each graph is written, run, and compared with the model; the files are only written if all hold.
"""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabulate import tabulate
from torch import Tensor, nn

from instseg_d2.atomic_file import written_whole
from instseg_d2.errors import ConfigError

from .formats import METADATA_FILE, OPSET, ExportError, onnx_session
from .verify import NO_OUTLINES, has_outline, mask_ious

#: Largest difference of an output's values, relative to the span of them and 0.
VALUE_TOLERANCE = 1e-4
#: Masks of one window overlap by more than this.
MASK_IOU = 0.99


@dataclass(frozen=True)
class Part:
    """One graph of a model.

    Attributes:
        name: of the graph; the file's name ends in it.
        graph: takes and gives tensors, a tuple of them even if it gives one.
        reference: the model itself, called as the graph is.
        inputs: name -> the axes that have any length.
        outputs: names.
        example: inputs that the graph is traced with; no axis of any length is 1 in them.
        checks: inputs of other sizes that it is compared on.
        mask_threshold: the outputs are mask logits, which are also compared cut at this logit.
    """

    name: str
    graph: nn.Module
    reference: Callable[..., Sequence[Tensor]]
    inputs: Mapping[str, tuple[int, ...]]
    outputs: tuple[str, ...]
    example: tuple[Tensor, ...]
    checks: tuple[tuple[Tensor, ...], ...]
    mask_threshold: float | None = None


@dataclass(frozen=True)
class GraphFiles:
    """What a model is exported as: its parts, and metadata (JSON by key) that are in every file."""

    parts: tuple[Part, ...]
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class PartComparison:
    """One output of one graph for one input.

    Attributes:
        part, output: names.
        shape: of the output.
        difference: largest of the values, relative to the span of them and 0.
        mask_iou: least overlap of the masks; None where there are none.
        outlined: of the model's masks, those that are neither empty nor full.
    """

    part: str
    output: str
    shape: tuple[int, ...]
    difference: float
    mask_iou: float | None
    outlined: int = 0

    def holds(self) -> bool:
        """Whether model and graph agree; values that are no numbers do not."""
        overlaps = self.mask_iou is None or self.mask_iou > MASK_IOU
        return self.difference <= VALUE_TOLERANCE and overlaps


#: Arrays in the order of the part's inputs -> its outputs.
PartRunner = Callable[..., Sequence[np.ndarray]]


def write_onnx(part: Part, metadata: Mapping[str, str]) -> bytes:
    """The content of an ONNX file; the metadata are its ``metadata_props``."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    dynamic = tuple(
        dict.fromkeys(axes, torch.export.Dim.DYNAMIC) if axes else None
        for axes in part.inputs.values()
    )
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.export.export(
            part.graph,
            part.example,
            dynamic_shapes=(dynamic,),  # the graphs' forward takes ``*inputs``
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
        )
        program = torch.onnx.export(
            traced,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(part.inputs),
            output_names=list(part.outputs),
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props.update(metadata)
    return program.model_proto.SerializeToString()


def read_onnx(part: Part, content: bytes) -> PartRunner:
    """By onnxruntime on the CPU."""
    session = onnx_session(content)

    def run(*arrays: np.ndarray) -> Sequence[np.ndarray]:
        answer: Sequence[np.ndarray] = session.run(
            list(part.outputs), dict(zip(part.inputs, arrays, strict=True))
        )
        return answer

    return run


def write_torchscript(part: Part, metadata: Mapping[str, str]) -> bytes:
    """The content of a TorchScript file, by tracing; the metadata are in ``metadata.json``."""
    buffer = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(part.graph, part.example, check_trace=False)
        torch.jit.save(traced, buffer, _extra_files={METADATA_FILE: json.dumps(dict(metadata))})
    return buffer.getvalue()


def read_torchscript(part: Part, content: bytes) -> PartRunner:
    """By PyTorch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.jit.load(io.BytesIO(content))

    def run(*arrays: np.ndarray) -> Sequence[np.ndarray]:
        with torch.no_grad():
            return [output.numpy() for output in module(*map(torch.from_numpy, arrays))]

    return run


#: ``--format`` -> what writes a part, and what runs it.
PART_FORMATS: dict[str, tuple[Callable[..., bytes], Callable[..., PartRunner]]] = {
    "onnx": (write_onnx, read_onnx),
    "torchscript": (write_torchscript, read_torchscript),
}


def check_part_format(form: str) -> None:
    """Raise ``ConfigError`` if models of several graphs are not written in this format."""
    if form not in PART_FORMATS:
        raise ConfigError(
            f"--format {form} is not written for models of several graphs (DeepMask, SharpMask); "
            f"give {' or '.join(PART_FORMATS)}"
        )


@torch.no_grad()
def compare_part(part: Part, run: PartRunner) -> list[PartComparison]:
    """Graph and model on all inputs of ``checks``."""
    results = []
    for inputs in part.checks:
        expected = [value.float().numpy() for value in part.reference(*inputs)]
        found = run(*(value.numpy() for value in inputs))
        for name, wanted, given in zip(part.outputs, expected, found, strict=True):
            iou, outlined = None, 0
            if part.mask_threshold is not None:
                first, second = (masks > part.mask_threshold for masks in (wanted, given))
                iou = float(np.diagonal(mask_ious(first, second)).min(initial=1.0))
                outlined = int(has_outline(first).sum())
            difference = relative_difference(wanted, given)
            results.append(PartComparison(part.name, name, wanted.shape, difference, iou, outlined))
    return results


def relative_difference(wanted: np.ndarray, given: np.ndarray) -> float:
    """Largest difference, relative to the span of what is wanted and 0; infinite if the shapes
    differ."""
    if wanted.shape != given.shape:
        return float("inf")
    span = float(wanted.max(initial=0) - wanted.min(initial=0))
    difference = float(np.abs(wanted - given).max(initial=0))
    return difference / span if span else difference


def export_parts(files: GraphFiles, form: str, output: Path) -> None:
    """Write every part in a format, compare all with the model, and leave the files if all hold.

    Args:
        files: what is written.
        form: a key of :data:`PART_FORMATS`.
        output: ``DIR/NAME.ENDING``; the files are ``DIR/NAME_PART.ENDING``.

    Raises:
        ExportError: a graph does not answer as the model does; no file is written.
    """
    write, read = PART_FORMATS[form]
    contents, results = {}, []
    for part in files.parts:
        content = write(part, files.metadata)
        results += compare_part(part, read(part, content))
        contents[output.with_name(f"{output.stem}_{part.name}{output.suffix}")] = content
    print(part_table(results))
    if not all(result.holds() for result in results):
        names = " and ".join(map(str, contents))
        raise ExportError(
            "the exported graphs do not answer as the model does (wanted: values within "
            f"{VALUE_TOLERANCE} of their span, mask IoU above {MASK_IOU}); {names} were not written"
        )
    if not any(result.outlined for result in results):
        print(NO_OUTLINES)
    output.parent.mkdir(parents=True, exist_ok=True)
    for path, content in contents.items():
        with written_whole(str(path)) as file:
            file.write(content)
        print(f"{path}: {len(content) / 1e6:.1f} MB")


def part_table(results: Sequence[PartComparison]) -> str:
    """For people."""
    rows: list[list[Any]] = [
        [
            result.part,
            result.output,
            " x ".join(map(str, result.shape)),
            f"{result.difference:.1e}",
            "" if result.mask_iou is None else f"{result.mask_iou:.4f}",
            "yes" if result.holds() else "NO",
        ]
        for result in results
    ]
    headers = ["graph", "output", "shape", "differs by", "least mask IoU", "holds"]
    return tabulate(rows, headers, disable_numparse=True)
