"""The pictures of the embedded ``shapes`` data set: drawn, not downloaded.

:func:`render_image` is a pure function of ``(spec, split, index)``. It scatters one to six objects
of six classes over a textured background. The outline makes the class; texture, rotation, aspect
and size say nothing about it. Nineteen objects in twenty have a colour that is typical of their
class, so that a small network learns the classes within minutes, as colour helps it in photographs;
the rest may have any. Later objects cover earlier ones, a mask is the visible part. About 3 images
in 100 are empty and 3 in 100 hold a crowd: a tight cluster of small objects of one class that
counts as one ``iscrowd`` region.

Shape shorthand:

    H, W: image height and width
    h, w: height and width of the patch that one piece is drawn in
    S:    SUPERSAMPLE, the factor by which patches are drawn larger and then averaged down

Naming convention: ``alpha`` is a coverage in 0..1 (float32), ``mask`` is ``alpha >= 0.5`` (bool),
colours are RGB in 0..255 (float32), coordinates are (x, y) in pixels, the centre of the first
pixel being (0.5, 0.5).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.random import Generator

from instseg_d2.data import textures
from instseg_d2.errors import ConfigError

GENERATOR_VERSION = 7
"""Raise it with every change of the pixels or masks, so that old caches are not used."""

CLASS_NAMES = ("disc", "square", "triangle", "star", "ring", "cross")

MIN_IMAGE_SIZE = 48
"""Below this the largest objects are hardly bigger than the smallest."""
MAX_IMAGE_SIZE = 1024

MIN_DIAMETER = 5.0
"""Pixels: in fewer, a star and a disc look alike."""
MIN_VISIBLE_PIXELS = 12
MIN_VISIBLE_FRACTION = 0.25

SUPERSAMPLE = 4

COUNT_PROBABILITIES = (0.30, 0.27, 0.20, 0.12, 0.07, 0.04)
"""Of one to six objects in an image. Images with few objects teach to find them, the others to tell
them apart."""

Split = Literal["train", "val"]
SPLITS: tuple[Split, Split] = ("train", "val")


@dataclass(frozen=True)
class ShapesSpec:
    """What is drawn. Two equal specs give equal pictures and annotations.

    Args:
        num_train: images in the training split, at least 1.
        num_val: images in the validation split, at least 1.
        image_size: short side of the images in pixels, 48 to 1024. The long side is 1 to 1.33
            times as long, half of the images being upright. Object sizes grow with it.
        seed: non-negative. Another seed gives other images of the same kind.

    Raises:
        ConfigError: a value of the wrong type or outside its range.
    """

    num_train: int = 3000
    num_val: int = 200
    image_size: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        bounds = {
            "num_train": (1, 10**6),
            "num_val": (1, 10**6),
            "image_size": (MIN_IMAGE_SIZE, MAX_IMAGE_SIZE),
            "seed": (0, 2**63 - 1),
        }
        for field, (low, high) in bounds.items():
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int):
                raise ConfigError(f"ShapesSpec.{field} must be a whole number, not {value!r}.")
            if not low <= value <= high:
                raise ConfigError(f"ShapesSpec.{field} must be {low} to {high}, not {value}.")


@dataclass(frozen=True)
class ShapeInstance:
    """One annotated object or crowd region.

    Args:
        category: index into :data:`CLASS_NAMES`.
        mask: bool (H, W), the visible part.
        iscrowd: whether it stands for a group of objects of this class.
    """

    category: int
    mask: np.ndarray
    iscrowd: bool


def render_image(
    spec: ShapesSpec, split: Split, index: int
) -> tuple[np.ndarray, list[ShapeInstance]]:
    """Draw one image of the data set, touching neither disk nor global random state.

    Args:
        spec: ``image_size`` and ``seed`` matter here, the numbers of images do not.
        split: ``"train"`` or ``"val"``.
        index: from 0. Any number is valid: the data set is the first ``num_train`` or ``num_val``.

    Returns:
        tuple: the image, uint8 (H, W, 3) RGB, and its instances, the lowest in the pile first.
        No pixel belongs to two instances.

    Raises:
        ValueError: an unknown split or a negative index.
    """
    if split not in SPLITS or index < 0:
        raise ValueError(f"no image {index} in split {split!r} (splits: {', '.join(SPLITS)})")
    seeds = np.random.SeedSequence([spec.seed, SPLITS.index(split), index])
    # Two streams, so that no change of colours or textures ever moves an object.
    layout_rng, paint_rng = (Generator(np.random.PCG64(child)) for child in seeds.spawn(2))

    height, width = _draw_size(layout_rng, spec.image_size)
    layers = _plan_layers(layout_rng, height, width)
    kept = _visible_layers(layers, height, width)
    canvas, background_colours = textures.background(paint_rng, height, width)
    object_colours: list[np.ndarray] = []
    for layer, _ in kept:
        for piece in layer.pieces:
            colour = textures.pick_colour(
                paint_rng, background_colours, object_colours, layer.category / len(CLASS_NAMES)
            )
            _paint_piece(paint_rng, canvas, piece, colour)
            if not layer.iscrowd:
                object_colours.append(colour)
    image = np.clip(np.rint(canvas), 0, 255).astype(np.uint8)
    return image, [ShapeInstance(layer.category, mask, layer.iscrowd) for layer, mask in kept]


def _draw_size(rng: Generator, short: int) -> tuple[int, int]:
    long = round(short * rng.uniform(1.0, 4 / 3))
    return (short, long) if rng.random() < 0.5 else (long, short)


# ------------------------------------------------------------------------------------- outlines


def _regular(corners: int, inner: float = 1.0) -> np.ndarray:
    """Corners on the unit circle, each second one at radius ``inner``; float (corners, 2)."""
    angle = 2 * np.pi * np.arange(corners) / corners
    radius = np.where(np.arange(corners) % 2 == 0, 1.0, inner)
    return np.stack([radius * np.sin(angle), -radius * np.cos(angle)], axis=1)


def _cross(arm: float) -> np.ndarray:
    quarter = np.array([[arm, 1.0], [arm, arm], [1.0, arm]])
    turns = [np.array([[c, -s], [s, c]]) for c, s in ((1, 0), (0, -1), (-1, 0), (0, 1))]
    return np.concatenate([quarter @ turn.T for turn in turns])


_SQUARE = np.array([[-0.85, -0.85], [0.85, -0.85], [0.85, 0.85], [-0.85, 0.85]])


def _outline(category: int, rng: Generator) -> list[np.ndarray]:
    """The contours of one class within about the unit circle, each float (corners, 2).

    Areas enclosed by two contours are holes.
    """
    makers: dict[str, Callable[[], list[np.ndarray]]] = {
        "disc": lambda: [_regular(64)],
        "square": lambda: [_SQUARE],
        "triangle": lambda: [_regular(3)],
        "star": lambda: [_regular(10, rng.uniform(0.38, 0.5))],
        "ring": lambda: [_regular(64), _regular(64) * rng.uniform(0.5, 0.65)],
        "cross": lambda: [_cross(rng.uniform(0.28, 0.4))],
    }
    return makers[CLASS_NAMES[category]]()


# --------------------------------------------------------------------------------------- layers


@dataclass(frozen=True)
class _Piece:
    """One drawn outline.

    Args:
        x, y: image coordinates of the patch's top left corner; the patch may leave the image.
        diameter: the longer extent in pixels.
        alpha: float32 (h, w), coverage.
        rim: float32 (h, w), the part of ``alpha`` along the outline.
    """

    x: int
    y: int
    diameter: float
    alpha: np.ndarray
    rim: np.ndarray


@dataclass(frozen=True)
class _Layer:
    """What is annotated as one: a single piece, or the many pieces of a crowd."""

    category: int
    pieces: list[_Piece]
    iscrowd: bool


def _draw_piece(rng: Generator, category: int, centre: np.ndarray, diameter: float) -> _Piece:
    """Draw one outline with a random rotation and aspect into a patch of its own."""
    aspect = np.exp(rng.uniform(-1, 1) * np.log(1.5))
    stretch = np.array([aspect, 1.0]) / max(aspect, 1.0) * diameter / 2
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])

    margin = int(np.ceil(diameter / 2 * 1.25)) + 2  # the diagonal of a stretched cross, a shadow
    corner = np.floor(centre).astype(int) - margin
    side = 2 * margin + 1
    contours = [(c * stretch) @ turn.T + (centre - corner) for c in _outline(category, rng)]
    # fillPoly: 4 fractional bits, integer coordinates are pixel centres.
    fixed = [np.rint((c * SUPERSAMPLE - 0.5) * 16).astype(np.int32) for c in contours]

    fill = np.zeros((side * SUPERSAMPLE, side * SUPERSAMPLE), np.uint8)
    cv2.fillPoly(fill, fixed, 255, lineType=cv2.LINE_8, shift=4)
    rim = np.zeros_like(fill)
    thickness = max(1.0, diameter * 0.035) * 2 * SUPERSAMPLE  # half of it falls outside
    cv2.polylines(rim, fixed, True, 255, round(thickness), lineType=cv2.LINE_8, shift=4)
    rim &= fill
    alpha, rim_alpha = (
        cv2.resize(a.astype(np.float32) / 255, (side, side), interpolation=cv2.INTER_AREA)
        for a in (fill, rim)
    )
    return _Piece(int(corner[0]), int(corner[1]), diameter, alpha, rim_alpha)


def _draw_diameter(rng: Generator, short: int) -> float:
    """Mostly medium (log-uniform .22 - .62 of the short side), sometimes tiny or huge."""
    kind = rng.random()
    if kind < 0.04:
        low, high = MIN_DIAMETER, max(MIN_DIAMETER, 0.08 * short)
    elif kind < 0.07:
        low, high = 0.8 * short, 0.95 * short
    else:
        low, high = max(MIN_DIAMETER, 0.22 * short), 0.62 * short
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _draw_centre(
    rng: Generator, size: np.ndarray, diameter: float, others: list[tuple[np.ndarray, float]]
) -> np.ndarray:
    """Anywhere in the image; one time in three beside or upon an object that is there already."""
    if others and rng.random() < 0.35:
        other, other_diameter = others[rng.integers(len(others))]
        angle = rng.uniform(0, 2 * np.pi)
        distance = rng.uniform(0.3, 0.55) * (diameter + other_diameter)
        centre = other + distance * np.array([np.cos(angle), np.sin(angle)])
        return np.clip(centre, 0, size)
    # The nearer to the image's size, the nearer to its middle: most objects are whole.
    inset = np.minimum(0.35 * diameter / size, 0.35)
    return size * rng.uniform(inset, 1 - inset)


def _plan_layers(rng: Generator, height: int, width: int) -> list[_Layer]:
    """Draw the outlines of one image, the lowest first."""
    if rng.random() < 0.03:
        return []
    size = np.array([width, height], float)
    short = min(height, width)
    layers: list[_Layer] = []
    placed: list[tuple[np.ndarray, float]] = []
    for _ in range(rng.choice(np.arange(1, 7), p=COUNT_PROBABILITIES)):
        category = int(rng.integers(len(CLASS_NAMES)))
        diameter = _draw_diameter(rng, short)
        centre = _draw_centre(rng, size, diameter, placed)
        placed.append((centre, diameter))
        layer = _Layer(category, [_draw_piece(rng, category, centre, diameter)], False)
        # On top, a huge object would hide all others.
        layers.insert(0 if diameter > 0.7 * short else len(layers), layer)
    if rng.random() < 0.03:
        layers.insert(int(rng.integers(len(layers) + 1)), _plan_crowd(rng, size))
    return layers


def _plan_crowd(rng: Generator, size: np.ndarray) -> _Layer:
    """8 to 16 small objects of one class, close together."""
    category = int(rng.integers(len(CLASS_NAMES)))
    number = int(rng.integers(8, 17))
    diameter = max(MIN_DIAMETER, float(size.min()) * rng.uniform(0.07, 0.1))
    middle = size * rng.uniform(0.25, 0.75, 2)
    # A sunflower's seeds: evenly close, without a grid.
    steps = np.arange(number) + rng.uniform(0.3, 1.0)
    radius = 0.55 * diameter * np.sqrt(steps)
    angle = steps * np.pi * (3 - np.sqrt(5)) + rng.uniform(0, 2 * np.pi)
    seeds = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    centres = middle + seeds + rng.normal(0, 0.1 * diameter, (number, 2))
    diameters = diameter * rng.uniform(0.8, 1.2, number)
    pieces = [
        _draw_piece(rng, category, c, float(d)) for c, d in zip(centres, diameters, strict=True)
    ]
    return _Layer(category, pieces, True)


def _overlap(
    piece: _Piece, height: int, width: int
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """The slices (rows, columns) of image and of patch where both overlap; maybe empty."""
    h, w = piece.alpha.shape
    top, left = min(max(piece.y, 0), height), min(max(piece.x, 0), width)
    bottom, right = max(min(piece.y + h, height), top), max(min(piece.x + w, width), left)
    image = (slice(top, bottom), slice(left, right))
    patch = (
        slice(top - piece.y, bottom - piece.y),
        slice(left - piece.x, right - piece.x),
    )
    return image, patch


def _layer_mask(layer: _Layer, height: int, width: int) -> np.ndarray:
    """bool (H, W): the layer as if nothing lay upon it."""
    mask = np.zeros((height, width), bool)
    for piece in layer.pieces:
        image, patch = _overlap(piece, height, width)
        mask[image] |= piece.alpha[patch] >= 0.5
    if layer.iscrowd:  # a region, without the narrow gaps between its members
        gap = max(3, round(0.6 * np.mean([piece.diameter for piece in layer.pieces])))
        kernel = np.ones((gap, gap), np.uint8)
        mask = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, kernel).astype(bool)
    return mask


def _visible_layers(
    layers: list[_Layer], height: int, width: int
) -> list[tuple[_Layer, np.ndarray]]:
    """Drop the layers of which too little is seen, so that nothing is drawn but not annotated.

    From the top down: what is dropped hides nothing.

    Returns:
        list[tuple]: the kept layers in their order, with their visible masks, bool (H, W).
    """
    taken = np.zeros((height, width), bool)
    kept: list[tuple[_Layer, np.ndarray]] = []
    for layer in reversed(layers):
        mask = _layer_mask(layer, height, width)
        whole = sum(int((piece.alpha >= 0.5).sum()) for piece in layer.pieces)
        visible = mask & ~taken
        if visible.sum() < max(MIN_VISIBLE_PIXELS, MIN_VISIBLE_FRACTION * whole):
            continue
        taken |= mask
        kept.append((layer, visible))
    return kept[::-1]


# ------------------------------------------------------------------------------------- painting


def _paint_piece(rng: Generator, canvas: np.ndarray, piece: _Piece, colour: np.ndarray) -> None:
    """Lay one object upon ``canvas`` (float32 (H, W, 3), in place), maybe with shadow and rim."""
    h, w = piece.alpha.shape
    image, patch = _overlap(piece, *canvas.shape[:2])
    shadow, rim = rng.random() < 0.4, rng.random() < 0.4
    below = canvas[image]
    if shadow:
        offset = 0.04 * piece.diameter
        shift = np.array([[1, 0, offset], [0, 1, offset]], np.float32)
        shade = cv2.GaussianBlur(cv2.warpAffine(piece.alpha, shift, (w, h)), (0, 0), offset + 0.5)
        below = below * (1 - 0.45 * shade[patch])[..., None]
    surface = textures.object_surface(rng, colour, h, w, piece.diameter)
    if rim:
        line = piece.rim[..., None]
        surface = surface * (1 - line) + 0.45 * colour * line
    alpha = piece.alpha[patch][..., None]
    canvas[image] = below * (1 - alpha) + surface[patch] * alpha
