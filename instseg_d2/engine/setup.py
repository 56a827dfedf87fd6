"""From the command line to a frozen config, with everything checked that can be at once."""

import argparse
import logging
import os

from detectron2.config import CfgNode
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from ..config import load_config
from ..data.config_datasets import register_config_datasets
from ..data.own import register_own_data
from ..errors import ConfigError
from ..families import FAMILY_PACKAGES, family_of
from ..model_zoo import find_config_file
from ..modeling import check_device
from ..processes import in_words
from .output_dir import claim_output_dir
from .quiet_terminal import hide_tracebacks

logger = logging.getLogger(__name__)


def setup(args: argparse.Namespace) -> CfgNode:
    """Read the config and the user's own data, if it names any, and start Detectron2's logging.

    Args:
        args: of :func:`detectron2.engine.default_argument_parser`.

    Returns:
        the frozen config.

    Raises:
        ConfigError: see :func:`instseg_d2.config.load_config`; or ``OUTPUT_DIR`` cannot be used,
            for a training because another one is using it.
        ConfigError, DataError: see :func:`instseg_d2.data.own.register_own_data`.
        DeviceError: see :func:`instseg_d2.modeling.check_device`.
    """
    cfg = load_config(args.config_file, args.opts)
    check_device(cfg)
    family = family_of(cfg)
    if family is not None and args.eval_only:
        family.prepare_eval_only(cfg)
    own_data = register_own_data(cfg, for_training=not args.eval_only, keep=args.opts[::2])
    register_config_datasets(cfg)
    cfg.freeze()
    if args.config_file:  # Detectron2 logs the file; ours may have been given by name
        path = str(find_config_file(args.config_file))
        args = argparse.Namespace(**{**vars(args), "config_file": path})
    _make_output_dir(cfg.OUTPUT_DIR)
    if not args.eval_only and comm.is_main_process():
        claim_output_dir(cfg.OUTPUT_DIR)  # before anything of another training is overwritten
    for name in ("instseg_d2", *FAMILY_PACKAGES):
        setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name=name)
    default_setup(cfg, args)
    if comm.get_world_size() > 1:
        logger.info("Running in %s.", in_words())
    if not getattr(args, "debug", False):
        hide_tracebacks(("detectron2", "fvcore", "instseg_d2", *FAMILY_PACKAGES))
    if own_data is not None:
        own_data.log(cfg)
    return cfg


def _make_output_dir(path: str) -> None:
    """Make the folder, which logging would fail on in other words.

    Raises:
        ConfigError: it cannot be made or written to.
    """
    if not path:
        raise ConfigError("OUTPUT_DIR is empty; name a folder")
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"OUTPUT_DIR is {path}, which cannot be made ({error.strerror}); name another folder"
        ) from error
    if not os.access(path, os.W_OK):
        raise ConfigError(f"OUTPUT_DIR is {path}, where you may not write; name another folder")
