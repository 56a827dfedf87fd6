"""Every config key of DeepMask and SharpMask, with its default."""

from detectron2.config import CfgNode as CN

from .fast_rcnn import add_fast_rcnn_config
from .proposal_config import add_proposal_config
from .sampling_config import add_sampling_config


def add_sharpmask_config(cfg: CN) -> None:
    """Add ``MODEL.SHARP_MASK`` and ``MODEL.VGG`` to ``cfg``, in place.

    The meta-architectures ``DeepMask`` and ``SharpMask`` share them. The defaults are FAIR's
    released models (trunk W160-P4-D39-F128 in SharpMask's paper: window W, stride 2^P, D
    convolutions, F channels).
    """
    node = cfg.MODEL.SHARP_MASK = CN()
    # Side of the window that a mask covers ("W"), in pixels: a multiple of the trunk's stride.
    node.WINDOW_SIZE = 160
    # Pixels of surroundings on each side of the window in a training patch: a multiple of the
    # trunk's stride.
    node.CONTEXT = 16
    # How convolutions pad: "symmetric" (FAIR), "reflect" (the PyTorch port) or "zeros". The
    # backbones build_mirrored_resnet_backbone and build_vgg_backbone follow it, too.
    node.PADDING = "symmetric"
    # How a ResNet's first convolution pads, where that differs; "" for PADDING. The port's is
    # "symmetric".
    node.STEM_PADDING = ""

    # ---- trunk: a feature of the backbone, and its reduction -------------------------------------
    node.TRUNK = CN()
    # "res4" (P4) or "res3" (P3); of VGG "block5" or "block4". The backbone's OUT_FEATURES must have
    # it and nothing deeper.
    node.TRUNK.FEATURE = "res4"
    # Channels after the 1x1 convolution ("F"); 0 for none.
    node.TRUNK.CHANNELS = 128

    # ---- head ------------------------------------------------------------------------------------
    node.HEAD = CN()
    # "original", "A", "B" or "C": how much mask and score share, see sharpmask_d2/heads.py.
    # "original" needs TRUNK.CHANNELS 0.
    node.HEAD.NAME = "C"
    # Length of the vector that a window's mask is made from.
    node.HEAD.ENCODING_DIM = 512
    # Width of the score branch.
    node.HEAD.SCORE_DIM = 1024
    # Side of the coarse mask.
    node.HEAD.MASK_SIZE = 56
    # Probability of dropout, in the score branch.
    node.HEAD.DROPOUT = 0.5

    # ---- refinement (SharpMask only) -------------------------------------------------------------
    node.REFINEMENT = CN()
    # "Refinement", or "Multiscale": the baseline of figure 1b, to which FORM and UPSAMPLING mean
    # nothing (it always upsamples bilinearly), nor CHANNELS and SCHEDULE with LAYOUT "paper".
    node.REFINEMENT.NAME = "Refinement"
    # "refactored" (sum) or "original" (concatenation): the same function, the first is cheaper.
    # Their weights have other names. tools/convert_checkpoint.py makes weights of the first of
    # those of the second; sharpmask_d2.refinement has the map in both directions.
    node.REFINEMENT.FORM = "refactored"
    # "released": FAIR's layers; "paper": single convolutions, as in the paper's equations.
    node.REFINEMENT.LAYOUT = "released"
    # Channels from step to step: "halving" or "constant".
    node.REFINEMENT.SCHEDULE = "halving"
    # Channels of the first step.
    node.REFINEMENT.CHANNELS = 32
    # Channels after the first convolution on each skip feature, from deep to shallow: four for a
    # trunk of stride 16, three for one of stride 8. The PyTorch port has 64 last.
    node.REFINEMENT.HORIZONTAL_CHANNELS = (64, 64, 64, 32)
    # "nearest" (FAIR's code) or "bilinear" (the paper).
    node.REFINEMENT.UPSAMPLING = "nearest"
    # Train nothing but the refinement; the rest stays as MODEL.WEIGHTS gives it.
    node.FREEZE_FEEDFORWARD = True
    # What SharpMask answers with: "sharp" or "coarse" (then the refinement is left out).
    node.OUTPUT = "sharp"
    # What an evaluation judges: "proposals" of whole images (average recall), or masks and scores
    # of held-out "patches" (a hundredth of the time). "auto": patches while training, proposals
    # with --eval-only.
    node.EVALUATION = "auto"

    # ---- loss ------------------------------------------------------------------------------------
    node.LOSS = CN()
    # DeepMask's masks are compared with the truth at this size in training (SharpMask's at
    # WINDOW_SIZE, and so are both in the evaluation).
    node.LOSS.MASK_SIZE = 112
    node.LOSS.MASK_WEIGHT = 32.0
    node.LOSS.SCORE_WEIGHT = 1.0

    # ---- build_vgg_backbone (build_mirrored_resnet_backbone reads MODEL.RESNETS) -----------------
    cfg.MODEL.VGG = CN()
    # 11 (VGG-A) or 16 (VGG-D).
    cfg.MODEL.VGG.DEPTH = 11
    # Channels of each block.
    cfg.MODEL.VGG.CHANNELS = (64, 128, 256, 512, 512)
    # Of block1 to block5, strides 1 to 16.
    cfg.MODEL.VGG.OUT_FEATURES = ["block5"]

    # ---- which patches are drawn from an image ---------------------------------------------------
    add_sampling_config(node)

    # ---- proposals on whole images ---------------------------------------------------------------
    add_proposal_config(node)

    # ---- Fast R-CNN on them ----------------------------------------------------------------------
    add_fast_rcnn_config(cfg)
