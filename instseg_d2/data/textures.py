"""Colours and surfaces for :mod:`instseg_d2.data.shapes`.

All functions draw with the given generator only and return or change float32 RGB in 0..255, not
clipped: the caller clips once, at the end.
"""

from __future__ import annotations

import colorsys

import cv2
import numpy as np
from numpy.random import Generator

OBJECT_CONTRAST = 85.0
"""Wanted distance in RGB between an object and its background."""
NEIGHBOUR_CONTRAST = 60.0
"""Wanted distance in RGB between the objects of one image."""
TYPICAL_SHARE = 0.95
"""Share of the objects in a colour that is typical of their class; the others may have any."""
HUE_SPREAD = 0.03
"""Standard deviation of a class's typical hue, in turns of the colour circle."""


def _hsv(hue: float, saturation: float, value: float) -> np.ndarray:
    return 255 * np.array(colorsys.hsv_to_rgb(hue % 1.0, saturation, value), np.float32)


def pick_colour(
    rng: Generator,
    background: list[np.ndarray],
    neighbours: list[np.ndarray],
    typical_hue: float,
) -> np.ndarray:
    """A colour that stands out from ``background`` and, less so, from ``neighbours``.

    Nineteen times in twenty of about ``typical_hue`` (0..1, turns of the colour circle), else of
    any hue or grey. Of up to 20 random colours the first that keeps both distances, else the one
    that comes nearest to it.

    Returns:
        ndarray: float32 (3,).
    """
    best, best_margin = np.zeros(3, np.float32), -np.inf
    typical = rng.random() < TYPICAL_SHARE
    for _ in range(20):
        grey = not typical and rng.random() < 0.15
        saturation = 0.0 if grey else rng.uniform(0.5, 0.95)
        hue = rng.normal(typical_hue, HUE_SPREAD) if typical else rng.random()
        colour = _hsv(hue, saturation, rng.uniform(0.35, 1.0))
        margin = min(
            [float(np.linalg.norm(colour - other)) / OBJECT_CONTRAST for other in background]
            + [float(np.linalg.norm(colour - other)) / NEIGHBOUR_CONTRAST for other in neighbours]
        )
        if margin >= 1:
            return colour
        if margin > best_margin:
            best, best_margin = colour, margin
    return best


def _shade(colour: np.ndarray, amount: float) -> np.ndarray:
    """Darker (``amount`` in -1..0) or lighter (0..1)."""
    return colour * (1 + amount) if amount < 0 else colour + (255 - colour) * amount


def _ramp(rng: Generator, h: int, w: int) -> np.ndarray:
    """float32 (h, w) in 0..1, rising linearly in a random direction."""
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j].astype(np.float32)
    return 0.5 + 0.5 * (x * np.cos(angle) + y * np.sin(angle)) / np.sqrt(2)


def _clouds(rng: Generator, h: int, w: int, period: float) -> np.ndarray:
    """float32 (h, w) in about 0..1: smooth noise with blobs some ``period`` pixels wide."""
    side = max(h, w)
    cells = int(np.ceil(side / period)) + 1
    coarse = rng.random((cells, cells), np.float32)
    return cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)[:h, :w]


def _wave(rng: Generator, h: int, w: int, period: float, angle: float) -> np.ndarray:
    """float32 (h, w) in 0..1: soft-edged stripes, repeated every ``period`` pixels."""
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    phase = (x * np.cos(angle) + y * np.sin(angle)) / period + rng.random()
    return np.clip(0.5 + period / 4 * np.sin(2 * np.pi * phase), 0, 1)


def _pattern(rng: Generator, kind: str, h: int, w: int, period: float) -> np.ndarray:
    """float32 (h, w) in 0..1, where to mix a second colour in."""
    if kind == "clouds":
        return np.clip(_clouds(rng, h, w, period) * 2 - 0.5, 0, 1)
    if kind == "grain":
        return np.clip(rng.normal(0.3, 0.3, (h, w)), 0, 1).astype(np.float32)
    angle = rng.uniform(0, np.pi)
    stripes = _wave(rng, h, w, period, angle)
    if kind == "stripes":
        return stripes
    across = _wave(rng, h, w, period, angle + np.pi / 2)
    if kind == "dots":
        return stripes * across
    return np.abs(stripes - across)  # checks


def object_surface(
    rng: Generator, colour: np.ndarray, h: int, w: int, diameter: float
) -> np.ndarray:
    """The surface of one object: shaded, and two times in three patterned in a second tone.

    Returns:
        ndarray: float32 (h, w, 3).
    """
    light = _ramp(rng, h, w)[..., None]
    depth = rng.uniform(0.05, 0.35)
    surface = _shade(colour, -depth) * (1 - light) + _shade(colour, depth) * light
    if rng.random() < 0.65:
        kind = ("stripes", "checks", "dots", "clouds", "grain")[rng.integers(5)]
        period = max(4.0, diameter / rng.uniform(2.5, 6))
        dark = colour.mean() > 110
        second = _shade(colour, rng.uniform(-0.5, -0.25) if dark else rng.uniform(0.25, 0.5))
        mix = _pattern(rng, kind, h, w, period)[..., None]
        surface = surface * (1 - mix) + second * mix
    return surface.astype(np.float32)


def background(rng: Generator, height: int, width: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """A muted gradient with a faint pattern and, one time in two, faint clutter.

    Returns:
        tuple: the canvas, float32 (height, width, 3), and the two colours of the gradient,
        float32 (3,) each, which objects are to stand out from.
    """
    short = min(height, width)
    hue, value = rng.random(), rng.uniform(0.15, 0.9)
    first = _hsv(hue, rng.uniform(0.05, 0.5), value)
    second = _hsv(
        hue + rng.uniform(-0.12, 0.12),
        rng.uniform(0.05, 0.5),
        float(np.clip(value + rng.uniform(-0.25, 0.25), 0.1, 0.95)),
    )
    light = _ramp(rng, height, width)[..., None]
    canvas = first * (1 - light) + second * light
    if rng.random() < 0.75:
        kind = ("stripes", "checks", "dots", "clouds", "clouds", "grain")[rng.integers(6)]
        period = short * float(np.exp(rng.uniform(np.log(0.06), np.log(0.4))))
        mix = _pattern(rng, kind, height, width, max(4.0, period))[..., None]
        canvas = canvas + mix * rng.uniform(8, 28) * (1 if rng.random() < 0.5 else -1)
    canvas = canvas.astype(np.float32)
    if rng.random() < 0.5:
        _add_clutter(rng, canvas)
    return canvas, [first, second]


def _add_clutter(rng: Generator, canvas: np.ndarray) -> None:
    """Faint lines and blots, which are no objects; in place."""
    height, width = canvas.shape[:2]
    short = min(height, width)
    veil = np.zeros((height, width), np.float32)
    for _ in range(rng.integers(2, 9)):
        x, y, x2, y2 = (int(v) for v in rng.integers(0, [width, height, width, height]))
        strength = float(rng.uniform(8, 24) * rng.choice([-1, 1]))
        if rng.random() < 0.6:
            thickness = int(rng.integers(1, max(2, short // 24) + 1))
            cv2.line(veil, (x, y), (x2, y2), strength, thickness)
        else:
            cv2.circle(veil, (x, y), int(short * rng.uniform(0.03, 0.15)), strength, -1)
    canvas += cv2.GaussianBlur(veil, (0, 0), short / 128)[..., None]
