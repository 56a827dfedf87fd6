"""A training step in a file, to be taken once more: all that its losses depend on.

The file is read without running anything that it may bring along.
"""

import contextlib
import pickle
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, cast

import torch
import yaml
from detectron2.config import CfgNode
from torch import Tensor, nn

from ..atomic_file import written_whole
from ..config import get_cfg
from ..errors import DataError
from ..first_nonfinite import FirstNonFinite
from ..modeling import AMP_DTYPES, build_model
from ..plain_batch import from_plain, to_plain
from .accumulation import normalisation

FORMAT = "instseg-d2 training step 1"
PRECISIONS = {"float32": torch.float32, **AMP_DTYPES}


@dataclass(frozen=True)
class StepRecord:
    """One process's part of a step, as it was before the step.

    Attributes:
        iteration: from 0.
        report: what was found, in words.
        losses: by name, as the training saw them.
        config: the whole config, as YAML.
        precision: "float32", or what autocast computed in.
        loss_scale: the losses were multiplied by this before the backward pass.
        rng: states of PyTorch's generators: "cpu" and, on a GPU, "cuda".
        batches: what the model was given, one or several after the other.
        model: state dict.
    """

    iteration: int
    report: str
    losses: dict[str, float]
    config: str
    precision: str
    loss_scale: float
    rng: dict[str, Tensor]
    batches: list[list[dict[str, Any]]]
    model: dict[str, Tensor]

    def save(self, path: str) -> None:
        """Write the file, whole or not at all."""
        content = {item.name: getattr(self, item.name) for item in fields(self)}
        content["batches"] = to_plain(self.batches)
        with written_whole(path) as file:
            torch.save({"format": FORMAT, **content}, file)

    @classmethod
    def load(cls, path: str) -> "StepRecord":
        """
        Raises:
            DataError: it is no such file, or a damaged one.
            OSError: it cannot be read.
        """
        refusal = f"{path} is no file of a training step (see SOLVER.ON_NONFINITE), or damaged"
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
            raise DataError(refusal) from error
        if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
            raise DataError(refusal)
        try:
            record = cls(**{**content, "batches": from_plain(content["batches"])})
        except (AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise DataError(f"{refusal}: {type(error).__name__}: {error}") from error
        if record.precision not in PRECISIONS:
            raise DataError(f"{refusal}: its precision is {record.precision!r}")
        return record


@dataclass(frozen=True)
class Replayed:
    """What a step gave this time.

    Attributes:
        losses: by name.
        first: where the first value arose that is not finite, in words; "" if all are.
    """

    losses: dict[str, float]
    first: str


def replay(record: StepRecord, device: str | None = None) -> Replayed:
    """Take the forward and the backward pass of a step once more.

    Args:
        record: of the step.
        device: None: that of the config.

    Raises:
        ConfigError, DeviceError: see :func:`instseg_d2.modeling.build_model`.
        DataError: the weights are of another version of the model.
    """
    cfg = config_of(record)
    if device is not None:
        cfg.MODEL.DEVICE = device
    model = build_model(cfg)
    try:
        model.load_state_dict(record.model)
    except RuntimeError as error:
        raise DataError(f"the weights do not fit the model that is built today: {error}") from error
    return replay_with(record, model.train(), cfg.MODEL.DEVICE)


def replay_with(record: StepRecord, model: nn.Module, device: str) -> Replayed:
    """:func:`replay` with a model that is there, in train mode, with the weights of the step."""
    device_type = torch.device(device).type
    dtype = PRECISIONS[record.precision]
    losses: dict[str, float] = {}
    with _random_state(record.rng, device_type), FirstNonFinite(model) as watch:
        for batch in record.batches:
            watch.look_at_batch(batch)
        shares: list[float] = [1.0]
        more: dict[str, Any] = {}
        if len(record.batches) > 1:
            shares, more = normalisation(model, record.batches)
        for batch, share in zip(record.batches, shares, strict=True):
            with torch.autocast(device_type, dtype=dtype, enabled=dtype != torch.float32):
                output = model(batch, **more)
            output = {"total_loss": output} if isinstance(output, Tensor) else output
            output = {name: share * value for name, value in output.items()}
            for name, value in output.items():
                losses[name] = losses.get(name, 0.0) + value.item()
            (cast(Tensor, sum(output.values())) * record.loss_scale).backward()
    return Replayed(losses, watch.found)


def config_of(record: StepRecord) -> CfgNode:
    """The config that the step was taken with.

    Raises:
        DataError: it has keys that are not known today, or is damaged.
    """
    cfg = get_cfg()
    try:
        cfg.merge_from_other_cfg(CfgNode(yaml.safe_load(record.config)))
    except (yaml.YAMLError, AssertionError, AttributeError, KeyError, TypeError, ValueError) as e:
        raise DataError(f"the config in the file cannot be used today: {e}") from e
    return cfg


@contextlib.contextmanager
def _random_state(rng: dict[str, Tensor], device_type: str) -> Iterator[None]:
    """The generators as they were; afterwards they go on as if nothing had been."""
    with torch.random.fork_rng(devices=None if device_type == "cuda" else []):
        torch.set_rng_state(rng["cpu"])
        if device_type == "cuda" and "cuda" in rng:
            torch.cuda.set_rng_state(rng["cuda"])
        yield
