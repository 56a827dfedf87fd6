#!/usr/bin/env python
"""Train and evaluate: ``python train_net.py --config-file CONFIG [KEY VALUE ...]``.

Works as Detectron2's own ``tools/train_net.py``; ``--help`` lists the options. Your own data in
COCO's format needs no code::

    python train_net.py --config-file configs/sparseinst/finetune.yaml \\
        --train-json train.json --train-images images/train \\
        --val-json val.json --val-images images/val MODEL.WEIGHTS checkpoint.pth

Several processes, one for each GPU, or with ``MODEL.DEVICE cpu`` without any::

    python train_net.py --num-gpus 4 ...
    torchrun --nproc-per-node 4 train_net.py ...
    srun --ntasks-per-node 4 --gpus-per-node 4 python train_net.py ...
"""

import argparse
import os
from typing import Any

from detectron2.engine import default_argument_parser
from detectron2.evaluation import verify_results
from detectron2.utils import comm

from instseg_d2.checkpoint import InstSegCheckpointer, LoadOptions
from instseg_d2.class_order import class_names
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
from instseg_d2.processes import OPTIONS, Layout, find_layout, gpus_needed, launch


def evaluate(cfg: Any, resume: bool) -> dict[str, Any]:
    """Evaluate ``MODEL.WEIGHTS`` (or, to resume, the last checkpoint) on ``DATASETS.TEST``."""
    if not cfg.DATASETS.TEST:
        raise ConfigError("DATASETS.TEST is empty; name a data set to evaluate on")
    check_test_datasets(cfg)
    model = Trainer.build_model(cfg)
    checkpointer = InstSegCheckpointer(
        model,
        save_dir=cfg.OUTPUT_DIR,
        options=LoadOptions.from_config(cfg),
        classes=class_names(cfg, cfg.DATASETS.TEST),
    )
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    checkpointer.require_complete()
    model = prepare_for_inference(model.eval(), InferenceOptions.from_config(cfg))
    results = evaluate_resumably(cfg, model)
    if comm.is_main_process():
        verify_results(cfg, results)
    return results


def run(args: argparse.Namespace) -> None:
    """What each process does."""
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


def check(args: argparse.Namespace, layout: Layout) -> str:
    """Look for slips before anything is built; returns ``MODEL.DEVICE``."""
    cfg = load_config(args.config_file, args.opts)
    check_device(cfg, gpus_needed(layout))
    check_own_files(cfg, for_training=not args.eval_only, keep=args.opts[::2])
    if not args.eval_only:
        check_training(cfg, layout.world_size)
    return str(cfg.MODEL.DEVICE)


def main() -> None:
    """Parse the command line and start the processes."""
    parser = default_argument_parser()
    parser.add_argument("--progress-bar", action="store_true", help="show a bar while training")
    add_debug_option(parser)
    add_own_data_options(parser)
    args = parser.parse_args()
    args.opts = [*args.opts, *own_data_overrides(args)]
    options = Layout(
        OPTIONS,
        per_machine=args.num_gpus or 1,  # Detectron2 takes --num-gpus 0 as one process, too
        num_machines=args.num_machines,
        machine=args.machine_rank,
        url=args.dist_url,
    )
    with one_line_errors(args):
        layout = find_layout(options, os.environ, parser.get_default("dist_url"))
    launch(run, args, layout, check)


if __name__ == "__main__":
    main()
