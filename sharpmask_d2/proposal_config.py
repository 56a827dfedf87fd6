"""Config keys of proposals on whole images, with their defaults."""

from detectron2.config import CfgNode as CN


def add_proposal_config(node: CN) -> None:
    """Add ``PROPOSALS`` to ``node`` (``MODEL.SHARP_MASK``), in place."""
    node.PROPOSALS = proposals = CN()

    # ---- which windows get a mask ----------------------------------------------------------------
    # The best so many by score, over all scales: the most proposals of an image. (FAIR: 500 in its
    # evaluation, 1000 in the proposals it published.)
    proposals.NUM = 1000
    # Windows with a lower probability of an object get none.
    proposals.SCORE_THRESHOLD = 0.0

    # ---- at which sizes an image is looked at ----------------------------------------------------
    # Scales by name: "default" is 2^-2.5, 2^-2, ..., 2^0.5; "zoom" also has 2^1, for small objects,
    # and "zoom2" 2^1 and 2^1.5. Each costs about twice the one before.
    proposals.PRESET = "default"
    # Scales in numbers, in place of PRESET.
    proposals.SCALES = ()
    # 0: a scale multiplies the sides of the image. Else the longer side of every image becomes
    # scale * REFERENCE_SIZE pixels: the same cost and the same relative sizes of objects whatever
    # the image's resolution. (COCO's images: 640.)
    proposals.REFERENCE_SIZE = 0

    # ---- masks -----------------------------------------------------------------------------------
    # Pixels with a higher probability belong to the mask.
    proposals.MASK_THRESHOLD = 0.2
    # Of two proposals whose masks have a higher IoU the worse is dropped; 1.0: none is.
    proposals.NMS_THRESHOLD = 1.0
    # Windows whose masks are computed at a time. It changes memory and time, not the masks; a GPU
    # has room for hundreds.
    proposals.BATCH = 32
