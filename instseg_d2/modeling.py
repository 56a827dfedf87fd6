"""Build a model by its config, with messages for the user where a name or device is wrong."""

import torch
from detectron2.config import CfgNode
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY
from detectron2.modeling import build_model as build_detectron2_model
from torch import nn

from .errors import ConfigError, DeviceError
from .families import model_families
from .registry import look_up


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
    if cfg.MODEL.CHANNELS_LAST:
        model = model.to(memory_format=torch.channels_last)
    return model


def check_training(cfg: CfgNode, num_processes: int = 1) -> None:
    """See that the solver's settings fit the device and the number of processes.

    Raises:
        ConfigError: mixed precision without a GPU, or a batch that the processes cannot share.
    """
    if cfg.SOLVER.AMP.ENABLED and not cfg.MODEL.DEVICE.startswith("cuda"):
        raise ConfigError(
            f"SOLVER.AMP.ENABLED True needs a GPU, but MODEL.DEVICE is {cfg.MODEL.DEVICE}"
        )
    batch = cfg.SOLVER.IMS_PER_BATCH
    if batch % num_processes and not cfg.SOLVER.REFERENCE_WORLD_SIZE:
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH is {batch}, which {num_processes} processes cannot share evenly"
        )


def check_device(cfg: CfgNode, num_gpus: int = 1) -> None:
    """See that the device is there before anything is built.

    Raises:
        DeviceError: CUDA is asked for and absent, or more GPUs than there are.
    """
    device = cfg.MODEL.DEVICE
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise DeviceError(
            f"MODEL.DEVICE is {device}, but PyTorch sees no CUDA device here; "
            "give MODEL.DEVICE cpu, or run `python -m instseg_d2.check_env` to find out why"
        )
    available = torch.cuda.device_count()
    if num_gpus > 1 and (not device.startswith("cuda") or num_gpus > available):
        raise DeviceError(
            f"--num-gpus {num_gpus} was given with MODEL.DEVICE {device}; "
            f"PyTorch sees {available} CUDA device(s) here"
        )
