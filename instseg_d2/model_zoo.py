"""Configs and models by name, from any folder, in a checkout and in an installed wheel alike."""

import difflib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from detectron2.config import CfgNode
from torch import nn

from .errors import ConfigError
from .modeling import build_model, build_trained_model

_PACKAGE = Path(__file__).resolve().parent


@cache
def config_root() -> Path:
    """The folder of the configs that travel with this package."""
    # A wheel carries them inside the package; a checkout has them beside it.
    for root in (_PACKAGE / "configs", _PACKAGE.parent / "configs"):
        if root.is_dir():
            return root
    raise ConfigError(
        f"the configs are missing: neither {_PACKAGE / 'configs'} nor "
        f"{_PACKAGE.parent / 'configs'} exists; reinstall instseg-d2"
    )


def config_names() -> list[str]:
    """Every name that :func:`get_config_file` knows, sorted."""
    root = config_root()
    return sorted(
        path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.yaml")
    )


def get_config_file(name: str) -> str:
    """The path of a config that travels with this package.

    Args:
        name: such as ``sparseinst/sparse_inst_r50_giam``, with or without ``.yaml``.

    Raises:
        ConfigError: no such config; the message names the nearest.
    """
    stem = name.removesuffix(".yaml")
    if stem not in config_names():
        raise ConfigError(f"no config is named {name!r}{_nearest(stem)}")
    return str(config_root() / f"{stem}.yaml")


def find_config_file(path_or_name: str | Path) -> Path:
    """A file that exists is taken as it is; anything else is looked up by name.

    ``configs/x/y.yaml`` finds the config ``x/y`` from any folder.

    Raises:
        ConfigError: neither a file nor a known name.
    """
    path = Path(path_or_name)
    if path.is_file():
        return path
    stem = path.as_posix().removeprefix("./").removeprefix("configs/").removesuffix(".yaml")
    if stem in config_names():
        return Path(get_config_file(stem))
    raise ConfigError(
        f"the config file {path} does not exist, nor is it a config's name{_nearest(stem)}"
    )


def _nearest(stem: str) -> str:
    """The end of a message about an unknown name."""
    nearest = difflib.get_close_matches(stem, config_names(), n=3, cutoff=0.4)
    if not nearest:
        return f"; the names are those of the files in {config_root()}"
    return f"; the nearest names are: {', '.join(nearest)}"


def get_config(name: str) -> CfgNode:
    """The config of that name, as a ``CfgNode``; see :func:`get_config_file`."""
    from .config import load_config  # the config module looks names up here

    return load_config(get_config_file(name))


def get(
    name: str,
    weights: str | Path | None = None,
    *,
    overrides: Sequence[str] = (),
    device: str | torch.device | None = None,
) -> nn.Module:
    """The model of that config, in eval mode::

        get("sparseinst/sparse_inst_r50vd_dcn_giam_aug", weights="checkpoint.pth")

    Args:
        name: see :func:`get_config_file`.
        weights: path or URL of a checkpoint that has every tensor of the model. None: the model has
            the initial values that its constructor gives it; the config's ``MODEL.WEIGHTS``
            (ImageNet weights of the backbone, from which training starts) are not loaded.
        overrides: of the config: ``[KEY, VALUE, KEY, VALUE, ...]``.
        device: None: the config's ``MODEL.DEVICE``, or the CPU where PyTorch sees no GPU, as
            Detectron2's function of this name does.

    Raises:
        ConfigError: no such config (the message names the nearest), or a wrong override.
        WeightsError: the weights are absent, damaged, or not those of this model, whole.
        DeviceError: the device that was asked for is not there.
    """
    from .config import load_config  # the config module looks names up here

    cfg = load_config(get_config_file(name), overrides)
    if device is not None:
        cfg.MODEL.DEVICE = str(device)
    elif not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    if weights is None:
        return build_model(cfg).eval()
    cfg.MODEL.WEIGHTS = str(weights)
    return build_trained_model(cfg)
