"""A graph as the bytes of a file in each format, and those bytes as something that runs.

Both take any number of images of any size.
"""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from instseg_d2.errors import UserError

from .settings import INPUT, OUTPUTS

#: The newest that both TensorRT 10 and the onnxruntimes of the last years read; deformable
#: convolutions need 19.
OPSET = 20
METADATA_FILE = "metadata.json"

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
    """The graph through ``torch.export``, for any number of images of any size."""
    dynamic = dict.fromkeys((0, 1, 2), torch.export.Dim.DYNAMIC)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(
            graph,
            (example,),
            dynamic_shapes=(dynamic,),
            strict=False,
            # Conditions on sizes that the tracer cannot prove (no side of 1) are for run time.
            prefer_deferred_runtime_asserts_over_guards=True,
        )


def write_onnx(graph: nn.Module, example: torch.Tensor, metadata: Mapping[str, str]) -> bytes:
    """See :class:`Format`; the metadata are the model's ``metadata_props``."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
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


def read_onnx(content: bytes) -> Runner:
    """By onnxruntime."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ExportError(
            "--format onnx needs onnxruntime: pip install 'instseg-d2[export]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
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
        with torch.no_grad():
            return [output.numpy() for output in module(torch.from_numpy(images))]

    return run


FORMATS = {
    "onnx": Format(".onnx", write_onnx, read_onnx),
    "torchscript": Format(".pt", write_torchscript, read_torchscript),
}

#: What is not written, and why.
REFUSED = {
    "torch_export": "a saved program checks at run time what its tracer assumed of the example's "
    "size (whether padding is needed, that there is more than one image), and so refuses other "
    "sizes; give --format onnx or torchscript, which take any"
}
