"""Every config key of SparseInst, with its default.

Names and defaults are those of the authors' YAML files, so that these load unchanged. Keys below
the line "Beyond the authors'" are ours.
"""

from detectron2.config import CfgNode as CN


def add_sparseinst_config(cfg: CN) -> None:
    """Add ``MODEL.SPARSE_INST``, ``MODEL.PVT`` and ``MODEL.CSPNET`` to ``cfg``, in place.

    The keys under ``SOLVER`` that the authors' YAMLs also use are shared by all model families and
    live in :func:`instseg_d2.config.add_shared_config`.
    """
    node = cfg.MODEL.SPARSE_INST = CN()

    # ---- inference -------------------------------------------------------------------------------
    # Instances whose class score (before the mask rescoring) is not above this are dropped.
    node.CLS_THRESHOLD = 0.005
    # A pixel belongs to a mask when its probability is above this.
    node.MASK_THRESHOLD = 0.45
    # At most this many instances per image: the best by final score.
    node.MAX_DETECTIONS = 100

    # ---- encoder ---------------------------------------------------------------------------------
    node.ENCODER = CN()
    node.ENCODER.NAME = "InstanceContextEncoder"
    # Norm after the encoder's convolutions (those of the pooled grids aside) ("" for none, as in
    # the published models). "BN" helps much where the backbone starts from random weights.
    node.ENCODER.NORM = ""
    # Backbone features, finest first.
    node.ENCODER.IN_FEATURES = ["res3", "res4", "res5"]
    node.ENCODER.NUM_CHANNELS = 256

    # ---- decoder ---------------------------------------------------------------------------------
    node.DECODER = CN()
    node.DECODER.NAME = "BaseIAMDecoder"
    # Upper limit of instances in one image (instance activation maps, "N" in the paper).
    node.DECODER.NUM_MASKS = 100
    node.DECODER.NUM_CLASSES = 80
    # Length of the mask kernel of an instance ("D").
    node.DECODER.KERNEL_DIM = 128
    # Masks are upsampled bilinearly by this from stride 8.
    node.DECODER.SCALE_FACTOR = 2.0
    # Activation maps per instance; only the Group decoders read it.
    node.DECODER.GROUPS = 4
    # Also return the activation maps as "pred_iam" (to look at them; costs memory).
    node.DECODER.OUTPUT_IAM = False
    node.DECODER.INST = CN()
    node.DECODER.INST.DIM = 256
    node.DECODER.INST.CONVS = 4
    node.DECODER.MASK = CN()
    node.DECODER.MASK.DIM = 256
    node.DECODER.MASK.CONVS = 4

    # ---- loss ------------------------------------------------------------------------------------
    node.LOSS = CN()
    node.LOSS.NAME = "SparseInstCriterion"
    # "labels": classification; "masks": mask, dice and objectness losses.
    node.LOSS.ITEMS = ("labels", "masks")
    node.LOSS.CLASS_WEIGHT = 2.0
    node.LOSS.MASK_PIXEL_WEIGHT = 5.0
    node.LOSS.MASK_DICE_WEIGHT = 2.0
    node.LOSS.OBJECTNESS_WEIGHT = 1.0

    # ---- matcher: score = dice^ALPHA * class probability^BETA ------------------------------------
    node.MATCHER = CN()
    node.MATCHER.NAME = "SparseInstMatcher"
    node.MATCHER.ALPHA = 0.8
    node.MATCHER.BETA = 0.2

    # ---- data ------------------------------------------------------------------------------------
    node.DATASET_MAPPER = "SparseInstDatasetMapper"

    # ---- backbones (those of ResNet kind read MODEL.RESNETS) -------------------------------------
    # build_pyramid_vision_transformer (PVTv2).
    cfg.MODEL.PVT = CN()
    # "b0" to "b5".
    cfg.MODEL.PVT.NAME = "b1"
    cfg.MODEL.PVT.OUT_FEATURES = ["p2", "p3", "p4"]
    # Linear attention; exists for "b2" (published as b2_li).
    cfg.MODEL.PVT.LINEAR = False

    # build_cspnet_backbone.
    cfg.MODEL.CSPNET = CN()
    # "cspdarknet53" or "darknet53".
    cfg.MODEL.CSPNET.NAME = "darknet53"
    # "" or "BN", "FrozenBN", "SyncBN".
    cfg.MODEL.CSPNET.NORM = ""
    cfg.MODEL.CSPNET.OUT_FEATURES = ["csp2", "csp3", "csp4"]

    # ---- Beyond the authors' ---------------------------------------------------------------------
    # Instances whose final score (after the mask rescoring) is not above this are dropped. Zero
    # drops only the instances without a single mask pixel; raise it (0.3 to 0.5) to look at
    # pictures.
    node.SCORE_THRESHOLD = 0.0
    # Norm in the decoder's convolutions, as ENCODER.NORM in the encoder's.
    node.DECODER.NORM = ""
    # The class loss: weight of the positives, and how strongly easy examples are discounted. The
    # defaults suit many classes and long schedules; 0.5 and 0 (cross entropy) learn faster at
    # first.
    node.LOSS.FOCAL_ALPHA = 0.25
    node.LOSS.FOCAL_GAMMA = 2.0
    # Stochastic depth of the last transformer block in training; grows linearly up to it.
    cfg.MODEL.PVT.DROP_PATH_RATE = 0.1
