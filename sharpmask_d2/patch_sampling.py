"""Where to crop patches: pure functions of boxes, options and a random generator.

Coordinates are in pixels of the image, x to the right, y down, (0, 0) being the top left corner of
the first pixel. An object is at its *canonical position* when the patch is centred at its box and
its longer side is ``SamplingOptions.object_size`` patch pixels long.

Source: the DeepMask paper, section 3.2; numbers as in FAIR's code.
"""

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from detectron2.config import CfgNode

from instseg_d2.errors import ConfigError

#: Least and greatest scales of negatives are at most this many octaves from 1.
MAX_OCTAVES = 10

Box = tuple[float, float, float, float]
"""(left, top, right, bottom) in pixels of the image."""


@dataclass(frozen=True)
class SamplingOptions:
    """The rules of sampling; for the fields see :func:`add_sampling_config`."""

    window_size: int = 160
    context: int = 16
    object_scale: float = 128 / 224
    shift: float = 16.0
    scale: float = 0.25
    flip: float = 0.5
    mask_share: float = 0.5
    positive_share: float = 0.5
    min_area: float = 100.0
    min_side: float = 5.0
    negative_scales: tuple[float, float] = (-3.0, 2.0)
    negative_shift: float = 48.0
    negative_octaves: float = 2.5
    negative_trials: int = 100
    test_patches: int = 2000
    test_seed: int = 0
    test_jitter: float = 1.0
    test_min_area: float = 100.0
    test_min_side: float = 5.0

    def __post_init__(self) -> None:
        """Raises ``ConfigError`` for values that no patch can be drawn with."""
        for name in ("flip", "mask_share", "positive_share"):
            _check(name, 0 <= getattr(self, name) <= 1, "a share from 0 to 1", self)
        for name in ("shift", "scale", "min_area", "negative_shift", "negative_octaves"):
            _check(name, getattr(self, name) >= 0, "at least 0", self)
        _check("test_min_area", self.test_min_area >= 0, "at least 0", self)
        _check("test_jitter", 0 <= self.test_jitter <= 1, "from 0 to 1", self)
        for name in ("min_side", "test_min_side"):
            _check(name, getattr(self, name) > 0, "greater than 0", self)
        # A longer object would not fit into its window.
        _check("object_scale", 0 < self.object_scale <= 1, "above 0 and at most 1", self)
        for name in ("negative_trials", "test_patches"):
            _check(name, getattr(self, name) >= 1, "at least 1", self)
        _check("test_seed", self.test_seed >= 0, "at least 0", self)
        wanted = f"two numbers (least, greatest) from {-MAX_OCTAVES} to {MAX_OCTAVES}"
        _check("negative_scales", _are_octaves(self.negative_scales), wanted, self)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "SamplingOptions":
        """The options of ``MODEL.SHARP_MASK``.

        Raises:
            ConfigError: a value is out of range.
        """
        node = cfg.MODEL.SHARP_MASK
        keys = [field.name for field in fields(cls) if field.name not in ("window_size", "context")]
        values: dict[str, Any] = {key: getattr(node.SAMPLING, key.upper()) for key in keys}
        values["negative_scales"] = tuple(values["negative_scales"])
        return cls(window_size=node.WINDOW_SIZE, context=node.CONTEXT, **values)

    def for_testing(self) -> "SamplingOptions":
        """The rules of held-out patches; see :func:`add_sampling_config`."""
        standard = SamplingOptions()
        resized = self.window_size / standard.window_size
        return replace(
            self,
            shift=standard.shift * resized * self.test_jitter,
            scale=standard.scale * self.test_jitter,
            flip=standard.flip * self.test_jitter,
            min_area=self.test_min_area,
            min_side=self.test_min_side,
            negative_scales=standard.negative_scales,
            negative_shift=standard.negative_shift * resized,
            negative_octaves=standard.negative_octaves,
            negative_trials=standard.negative_trials,
        )

    @property
    def patch_size(self) -> int:
        """Side of a patch: the window and its context."""
        return self.window_size + 2 * self.context

    @property
    def object_size(self) -> int:
        """Longer side of an object at its canonical position, in pixels of the patch."""
        return math.ceil(self.window_size * self.object_scale - 1e-6)  # 224 * (128 / 224) is 128


def _are_octaves(values: tuple[Any, ...]) -> bool:
    if len(values) != 2 or not all(isinstance(value, (int, float)) for value in values):
        return False
    return bool(-MAX_OCTAVES <= values[0] <= values[1] <= MAX_OCTAVES)


def _check(name: str, right: bool, wanted: str, options: SamplingOptions) -> None:
    if not right:
        value = getattr(options, name)
        raise ConfigError(
            f"MODEL.SHARP_MASK.SAMPLING.{name.upper()} is {value!r}; it must be {wanted}"
        )


@dataclass(frozen=True)
class Window:
    """A square view of an image.

    Attributes:
        x, y: its centre, in pixels of the image.
        scale: pixels of the view per pixel of the image.
        flip: whether the view is mirrored left to right.
    """

    x: float
    y: float
    scale: float
    flip: bool = False

    def resized(self, factor: float) -> "Window":
        """The same view at another resolution: ``factor`` times the pixels along a side."""
        return replace(self, scale=self.scale * factor)

    def in_crop(self, left: float, top: float, reduction: float = 1.0) -> "Window":
        """The same view of the image cropped at (left, top) and then shrunk ``reduction`` times."""
        return Window(
            (self.x - left) / reduction,
            (self.y - top) / reduction,
            self.scale * reduction,
            self.flip,
        )

    def box(self, size: float) -> Box:
        """What the view covers of the image, or beyond, when it is ``size`` pixels along a side."""
        half = size / 2 / self.scale
        return self.x - half, self.y - half, self.x + half, self.y + half


def canonical_scale(box: Box, options: SamplingOptions) -> float:
    """Patch pixels per image pixel at which the longer side of ``box`` gets its wanted length."""
    left, top, right, bottom = box
    return options.object_size / max(right - left, bottom - top)


def mask_window(box: Box, rng: np.random.Generator, options: SamplingOptions) -> Window:
    """A view to learn the mask from: the canonical position, jittered in place and scale.

    Args:
        box: the object; its longer side is above zero.
    """
    scale = canonical_scale(box, options) * 2 ** rng.uniform(-options.scale, options.scale)
    shift_x, shift_y = rng.uniform(-options.shift, options.shift, 2) / scale
    x, y = _centre(box)
    return Window(x + shift_x, y + shift_y, scale, rng.random() < options.flip)


def positive_window(box: Box, rng: np.random.Generator, options: SamplingOptions) -> Window:
    """A view that is to be scored as an object: exactly centred, jittered in scale."""
    scale = canonical_scale(box, options) * 2 ** rng.uniform(-options.scale, options.scale)
    return Window(*_centre(box), scale, rng.random() < options.flip)


def negative_window(
    image_size: tuple[int, int],
    boxes: np.ndarray,
    rng: np.random.Generator,
    options: SamplingOptions,
) -> Window | None:
    """A view of any place and scale that is not near the canonical position of an object.

    Args:
        image_size: (height, width).
        boxes: (n, 4) left, top, right, bottom of everything annotated, n may be 0. Objects too
            small to be drawn and crowds belong to it: neither is a sure negative.

    Returns:
        None if ``negative_trials`` places were all too near.
    """
    height, width = image_size
    trials = options.negative_trials
    xs, ys = rng.uniform(0, width, trials), rng.uniform(0, height, trials)
    octaves = rng.uniform(*options.negative_scales, trials)
    flip = rng.random() < options.flip
    near = near_objects(xs, ys, octaves, boxes, options)
    if near.all():
        return None
    first = int(near.argmin())
    return Window(float(xs[first]), float(ys[first]), float(2 ** octaves[first]), flip)


def near_objects(
    xs: np.ndarray,
    ys: np.ndarray,
    octaves: np.ndarray,
    boxes: np.ndarray,
    options: SamplingOptions,
) -> np.ndarray:
    """Which views are near the canonical position of an object, and so are no negatives.

    Near: less than ``negative_shift`` patch pixels apart along x and along y, and at most
    ``negative_octaves`` apart in scale.

    Args:
        xs, ys, octaves: (t,) centres in image pixels, and log2 of the scales.
        boxes: (n, 4); boxes without extent are passed over.

    Returns:
        (t,) bool.
    """
    corners = np.asarray(boxes, np.float64).reshape(-1, 2, 2)
    sides = (corners[:, 1] - corners[:, 0]).max(1)
    corners, sides = corners[sides > 0], sides[sides > 0]
    centres = corners.mean(1)
    similar = np.abs(octaves[:, None] - np.log2(options.object_size / sides)) <= (
        options.negative_octaves
    )
    apart = np.maximum(np.abs(xs[:, None] - centres[:, 0]), np.abs(ys[:, None] - centres[:, 1]))
    close = apart * 2.0 ** octaves[:, None] < options.negative_shift
    near: np.ndarray = (similar & close).any(1)
    return near


def _centre(box: Box) -> tuple[float, float]:
    left, top, right, bottom = box
    return (left + right) / 2, (top + bottom) / 2
