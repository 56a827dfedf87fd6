#!/usr/bin/env python
"""Train and evaluate: ``python train_net.py --config-file CONFIG [KEY VALUE ...]``.

Works as Detectron2's own ``tools/train_net.py``; ``--help`` lists the options. Your own data in
COCO's format needs no code::

    python train_net.py --config-file configs/sparseinst/finetune.yaml \\
        --train-json train.json --train-images images/train \\
        --val-json val.json --val-images images/val MODEL.WEIGHTS checkpoint.pth
"""

import argparse
import contextlib
import sys
from typing import Any

from detectron2.engine import default_argument_parser, launch
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from torch.multiprocessing import ProcessExitedException

from instseg_d2.checkpoint import InstSegCheckpointer, LoadOptions
from instseg_d2.command_line import add_debug_option, one_line_errors
from instseg_d2.config import load_config
from instseg_d2.data.own_files import check_own_files
from instseg_d2.data.own_options import add_own_data_options, own_data_overrides
from instseg_d2.engine import Trainer, check_test_datasets, setup
from instseg_d2.engine.resumed_evaluation import evaluate_resumably
from instseg_d2.engine.run_report import warn_of_untrained_parts
from instseg_d2.errors import ConfigError
from instseg_d2.inference import InferenceOptions, prepare_for_inference
from instseg_d2.modeling import check_device, check_training
from instseg_d2.signals import forwarded_signals


def evaluate(cfg: Any, resume: bool) -> dict[str, Any]:
    """Evaluate ``MODEL.WEIGHTS`` (or, to resume, the last checkpoint) on ``DATASETS.TEST``."""
    if not cfg.DATASETS.TEST:
        raise ConfigError("DATASETS.TEST is empty; name a data set to evaluate on")
    check_test_datasets(cfg)
    model = Trainer.build_model(cfg)
    checkpointer = InstSegCheckpointer(
        model, save_dir=cfg.OUTPUT_DIR, options=LoadOptions.from_config(cfg)
    )
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    checkpointer.require_complete()
    model = prepare_for_inference(model.eval(), InferenceOptions.from_config(cfg))
    results = evaluate_resumably(cfg, model)
    if comm.is_main_process():
        verify_results(cfg, results)
    return results


def run(args: argparse.Namespace) -> None:
    """What one process does, of ``--num-gpus`` on each of ``--num-machines``."""
    how_to_go_on = "" if args.eval_only else "; --resume goes on from the last checkpoint"
    with one_line_errors(args, interrupted=f"interrupted{how_to_go_on}"):
        cfg = setup(args)
        if args.eval_only:
            evaluate(cfg, args.resume)
            return
        trainer = Trainer(cfg, progress_bar=args.progress_bar and comm.is_main_process())
        trainer.resume_or_load(resume=args.resume)
        if cfg.DATASETS.OWN.TRAIN_JSON:
            warn_of_untrained_parts(trainer.checkpointer.report, cfg.MODEL.WEIGHTS)
        trainer.train()


def main() -> None:
    """Parse the command line and start the processes."""
    parser = default_argument_parser()
    parser.add_argument("--progress-bar", action="store_true", help="show a bar while training")
    add_debug_option(parser)
    add_own_data_options(parser)
    args = parser.parse_args()
    args.opts = [*args.opts, *own_data_overrides(args)]
    with one_line_errors(args):
        # Before any process starts, so that a slip gives one message and not one per GPU.
        cfg = load_config(args.config_file, args.opts)
        check_device(cfg, args.num_gpus)
        check_own_files(cfg, for_training=not args.eval_only, keep=args.opts[::2])
        if not args.eval_only:
            # Detectron2 takes --num-gpus 0 as one process, too.
            check_training(cfg, max(args.num_gpus * args.num_machines, 1))
    try:
        with forwarded_signals() if args.num_gpus > 1 else contextlib.nullcontext():
            launch(
                run,
                args.num_gpus,
                num_machines=args.num_machines,
                machine_rank=args.machine_rank,
                dist_url=args.dist_url,
                args=(args,),
            )
    except ProcessExitedException as error:  # one of several; it has said what was wrong
        sys.exit(error.exit_code or 1)


if __name__ == "__main__":
    main()
