"""Config keys of the sampling of patches, with their defaults (FAIR's)."""

from detectron2.config import CfgNode as CN


def add_sampling_config(node: CN) -> None:
    """Add ``SAMPLING`` to ``node`` (``MODEL.SHARP_MASK``), in place."""
    node.SAMPLING = sampling = CN()

    # ---- where an object lies in its patch: its "canonical position" -----------------------------
    # Longer side of the object as a share of WINDOW_SIZE (rounded up to a whole pixel): 92 of 160.
    # At most 1.
    sampling.OBJECT_SCALE = 128 / 224
    # A mask patch is shifted by up to this from there, in pixels of the patch, along x and along y.
    sampling.SHIFT = 16.0
    # The scale of mask patches and of patches scored as objects differs by up to this, in octaves.
    sampling.SCALE = 0.25
    # Probability that a patch is mirrored left to right.
    sampling.FLIP = 0.5

    # ---- which patches ---------------------------------------------------------------------------
    # Share of the patches that the mask is learned from; the score is learned from the others.
    sampling.MASK_SHARE = 0.5
    # Share of objects among the patches that the score is learned from.
    sampling.POSITIVE_SHARE = 0.5
    # Objects with a smaller area, or a box with a shorter side, are never drawn (pixels of the
    # image). They still keep negatives away.
    sampling.MIN_AREA = 100.0
    sampling.MIN_SIDE = 5.0

    # ---- patches without an object: anywhere in the image ----------------------------------------
    # Least and greatest scale, patch pixels per image pixel, in octaves (powers of 2): -10 to 10.
    sampling.NEGATIVE_SCALES = (-3.0, 2.0)
    # Drawn again while closer than this to the canonical position of an object, in pixels of the
    # patch, along x and along y ...
    sampling.NEGATIVE_SHIFT = 48.0
    # ... and at a scale no further than this from the canonical one, in octaves.
    sampling.NEGATIVE_OCTAVES = 2.5
    # Tries per negative. An image that has no room after that many gives a positive instead.
    sampling.NEGATIVE_TRIALS = 100

    # ---- evaluation on held-out patches ----------------------------------------------------------
    # They do not follow what is said above of jitter, sizes and negatives, so that models trained
    # with other values are compared on the same patches: they are drawn by the defaults, distances
    # in proportion to WINDOW_SIZE. OBJECT_SCALE holds for them, too.
    #
    # Half of them are mask patches, a quarter positives, a quarter negatives.
    sampling.TEST_PATCHES = 2000
    # Another seed, other patches.
    sampling.TEST_SEED = 0
    # What the default SHIFT, SCALE and FLIP are multiplied with; with 0 all objects lie at their
    # canonical positions.
    sampling.TEST_JITTER = 1.0
    # As MIN_AREA and MIN_SIDE.
    sampling.TEST_MIN_AREA = 100.0
    sampling.TEST_MIN_SIDE = 5.0
