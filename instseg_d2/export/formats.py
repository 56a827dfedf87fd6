"""A graph as the bytes of a file in each format, and those bytes as something that runs.

All take any number of images of any size.
"""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from instseg_d2.errors import UserError

from .settings import INPUT, OUTPUTS

#: The newest that both TensorRT 10 and the onnxruntimes of the last years read; deformable
#: convolutions need 19.
OPSET = 20
METADATA_FILE = "metadata.json"
#: By format: what it needs beside PyTorch.
LIBRARIES = {"onnx": ("onnx", "onnxscript", "onnxruntime")}
#: Of images: below it the coarsest maps have a side of 1, which graphs treat otherwise.
LEAST_SIDE = 33

#: (B, H, W, 3) uint8 -> the graph's outputs.
Runner = Callable[[np.ndarray], Sequence[np.ndarray]]


class ExportError(UserError):
    """A graph that cannot be exported, or does not answer as the model does."""


@dataclass(frozen=True)
class Format:
    """
    Attributes:
        ending: of the file's name.
        write: (graph, example images (B, H, W, 3) uint8, metadata) -> the file's content.
        read: content -> what runs it on the CPU.
    """

    ending: str
    write: Callable[[nn.Module, torch.Tensor, Mapping[str, str]], bytes]
    read: Callable[[bytes], Runner]


def to_program(graph: nn.Module, example: torch.Tensor) -> torch.export.ExportedProgram:
    """The graph through ``torch.export``, for any number of images of any size.

    What the example's sizes happen to be (even, padded already, one image) becomes a condition of
    the program, so they must be as odd as those it is to take.
    """
    batch = torch.export.Dim("batch", min=1)
    height, width = (torch.export.Dim(name, min=LEAST_SIDE) for name in ("height", "width"))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(
            graph,
            (example,),
            dynamic_shapes=({0: batch, 1: height, 2: width},),
            strict=False,
            # Conditions on sizes that the tracer cannot prove (no side of 1) are for run time.
            prefer_deferred_runtime_asserts_over_guards=True,
        )


def write_torch_export(
    graph: nn.Module, example: torch.Tensor, metadata: Mapping[str, str]
) -> bytes:
    """See :class:`Format`."""
    buffer = io.BytesIO()
    files = {METADATA_FILE: json.dumps(dict(metadata))}
    program = to_program(graph, example)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of weights that are views: they are saved all the same
        torch.export.save(program, buffer, extra_files=files)
    return buffer.getvalue()


def read_torch_export(content: bytes) -> Runner:
    """By PyTorch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _torch_runner(torch.export.load(io.BytesIO(content)).module())


def check_libraries(name: str) -> None:
    """
    Args:
        name: of a format.

    Raises:
        ExportError: a library that it is written or compared with is not installed.
    """
    absent = [one for one in LIBRARIES.get(name, ()) if importlib.util.find_spec(one) is None]
    if absent:
        raise ExportError(
            f"--format {name} needs {', '.join(absent)}; in the checkout: "
            "pip install '.[export]' -c constraints.txt"
        )


def write_onnx(graph: nn.Module, example: torch.Tensor, metadata: Mapping[str, str]) -> bytes:
    """See :class:`Format`; the metadata are the model's ``metadata_props``."""
    for library in ("torch.onnx", "onnxscript"):
        logging.getLogger(library).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            to_program(graph, example),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props.update(metadata)
    return program.model_proto.SerializeToString()


def onnx_session(content: bytes) -> Any:
    """An onnxruntime session on the CPU, with as many threads as PyTorch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def read_onnx(content: bytes) -> Runner:
    """By onnxruntime."""
    session = onnx_session(content)
    return lambda images: session.run(list(OUTPUTS), {INPUT: images})


def write_torchscript(
    graph: nn.Module, example: torch.Tensor, metadata: Mapping[str, str]
) -> bytes:
    """See :class:`Format`. By tracing: no branch of the graphs depends on a size or value."""
    buffer = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that what is Python is not traced: it is the same for all
        traced = torch.jit.trace(graph, (example,), check_trace=False)
        torch.jit.save(traced, buffer, _extra_files={METADATA_FILE: json.dumps(dict(metadata))})
    return buffer.getvalue()


def read_torchscript(content: bytes) -> Runner:
    """By PyTorch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _torch_runner(torch.jit.load(io.BytesIO(content)))


def _torch_runner(module: nn.Module) -> Runner:
    def run(images: np.ndarray) -> list[np.ndarray]:
        try:
            with torch.no_grad():
                return [output.numpy() for output in module(torch.from_numpy(images))]
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            size = " x ".join(map(str, images.shape[:3]))
            raise ExportError(
                f"the exported graph does not take images of {size}: {reason}"
            ) from error

    return run


FORMATS = {
    "onnx": Format(".onnx", write_onnx, read_onnx),
    "torch_export": Format(".pt2", write_torch_export, read_torch_export),
    "torchscript": Format(".pt", write_torchscript, read_torchscript),
}
