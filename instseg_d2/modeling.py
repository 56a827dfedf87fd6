"""Build a model by its config, with messages for the user where a name or device is wrong."""

import torch
from detectron2.config import CfgNode
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY
from detectron2.modeling import build_model as build_detectron2_model
from torch import nn

from .checkpoint import InstSegCheckpointer, LoadOptions
from .errors import ConfigError, DeviceError
from .families import model_families
from .half_precision import check_half_precision
from .inference import InferenceOptions, prepare_for_inference
from .layers.frozen_norm_conv import join_frozen_norms
from .layers.recompute import recompute_first_stages
from .registry import look_up

#: What ``SOLVER.AMP.DTYPE`` may name.
AMP_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def build_model(cfg: CfgNode) -> nn.Module:
    """The model that ``MODEL.META_ARCHITECTURE`` names, on ``MODEL.DEVICE``, weights not loaded.

    Raises:
        ConfigError: a name in the config is not registered.
        DeviceError: see :func:`check_device`.
    """
    check_device(cfg)
    model_families()  # registers their modules
    look_up(META_ARCH_REGISTRY, cfg.MODEL.META_ARCHITECTURE, "MODEL.META_ARCHITECTURE")
    look_up(BACKBONE_REGISTRY, cfg.MODEL.BACKBONE.NAME, "MODEL.BACKBONE.NAME")
    model = build_detectron2_model(cfg)
    if cfg.MODEL.JOIN_FROZEN_NORMS:
        join_frozen_norms(model)
    if cfg.MODEL.RECOMPUTE_FIRST_STAGES:
        recompute_first_stages(model)
    if cfg.MODEL.CHANNELS_LAST:
        model = model.to(memory_format=torch.channels_last)
    return model


def build_trained_model(cfg: CfgNode) -> nn.Module:
    """The model with ``MODEL.WEIGHTS``, in eval mode.

    Raises:
        WeightsError: the weights are absent, damaged, or not those of this model, whole.
        ConfigError, DeviceError: see :func:`build_model`.
    """
    model = build_model(cfg).eval()
    checkpointer = InstSegCheckpointer(model, options=LoadOptions.from_config(cfg))
    checkpointer.load(cfg.MODEL.WEIGHTS)
    checkpointer.require_complete()
    return model


def build_inference_model(cfg: CfgNode) -> nn.Module:
    """The model with ``MODEL.WEIGHTS``, made faster as ``MODEL.INFERENCE`` says; it can only run.

    Raises:
        WeightsError: see :func:`build_trained_model`.
        ConfigError, DeviceError: see there, or ``MODEL.INFERENCE.PRECISION`` is not possible.
    """
    options = InferenceOptions.from_config(cfg)
    return prepare_for_inference(build_trained_model(cfg), options)


def check_training(cfg: CfgNode, num_processes: int = 1) -> None:
    """See that the solver's settings fit the device and the number of processes.

    Raises:
        ConfigError: mixed precision in a type that is unknown or that the CPU cannot do, a batch
            that the processes cannot share, or no batch at all in a step.
        DeviceError: mixed precision in a type that the GPU has no arithmetic for.
    """
    dtype = amp_dtype(cfg)
    if cfg.SOLVER.AMP.ENABLED:
        check_half_precision(dtype, cfg.MODEL.DEVICE, "SOLVER.AMP.DTYPE")
    if cfg.SOLVER.ACCUMULATE_STEPS < 1:
        raise ConfigError(
            f"SOLVER.ACCUMULATE_STEPS is {cfg.SOLVER.ACCUMULATE_STEPS}; it is the number of "
            "batches in one step of the optimiser, from 1"
        )
    batch = cfg.SOLVER.IMS_PER_BATCH
    if batch % num_processes and not cfg.SOLVER.REFERENCE_WORLD_SIZE:
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH is {batch}, which {num_processes} processes cannot share evenly"
        )


def amp_dtype(cfg: CfgNode) -> torch.dtype:
    """What ``SOLVER.AMP.DTYPE`` stands for on ``MODEL.DEVICE``: float16 or bfloat16.

    Raises:
        ConfigError: it is none of "auto", "float16" and "bfloat16".
    """
    name = cfg.SOLVER.AMP.DTYPE
    if name == "auto":
        name = "float16" if cfg.MODEL.DEVICE.startswith("cuda") else "bfloat16"
    if name not in AMP_DTYPES:
        raise ConfigError(
            f"SOLVER.AMP.DTYPE is {name!r}; known are auto, {' and '.join(AMP_DTYPES)}"
        )
    return AMP_DTYPES[name]


def check_device(cfg: CfgNode, num_processes: int = 1) -> None:
    """See that the device is there before anything is built.

    Args:
        num_processes: of this machine. On CUDA each has a GPU of its own.

    Raises:
        DeviceError: CUDA is asked for and absent, or there are fewer GPUs than processes.
    """
    device = cfg.MODEL.DEVICE
    if not device.startswith("cuda"):
        return
    if not torch.cuda.is_available():
        raise DeviceError(
            f"MODEL.DEVICE is {device}, but PyTorch sees no CUDA device here; "
            "give MODEL.DEVICE cpu, or run `python -m instseg_d2.check_env` to find out why"
        )
    available = torch.cuda.device_count()
    if num_processes > available:
        raise DeviceError(
            f"{num_processes} processes on this machine need a GPU each (MODEL.DEVICE {device}); "
            f"PyTorch sees {available} CUDA device(s) here"
        )
    if num_processes > 1 and device != "cuda":
        raise DeviceError(
            f"MODEL.DEVICE is {device}, one GPU, for {num_processes} processes; give MODEL.DEVICE "
            "cuda, and each takes its own"
        )
