"""Charts as inline SVG, for :mod:`.html_page`: sharp at any size, in the reader's colours, and
small."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from .html_page import Content, figure, join, legend

WIDTH, HEIGHT = 400, 280
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 10, 42
"""Margins around the plot, where its numbers and labels are."""

NUM_COLOURS = 8
"""The page's style sheet defines so many colours for curves."""


@dataclass(frozen=True)
class Axis:
    """From ``low`` to ``high``; ``percent`` writes 0.5 as 50."""

    label: str
    low: float = 0.0
    high: float = 1.0
    percent: bool = False


@dataclass(frozen=True)
class Curve:
    """Points (N,) and (N,), those that are not finite left out; ``dots`` marks each."""

    label: str
    xs: np.ndarray
    ys: np.ndarray
    dots: bool = False


@dataclass(frozen=True)
class Bar:
    """A bar of a bar chart; NaN for none."""

    label: str
    value: float


def line_chart(
    curves: Sequence[Curve],
    x_axis: Axis,
    y_axis: Axis,
    *,
    title: str,
    caption: Content = "",
    diagonal: bool = False,
) -> Markup:
    """A figure with curves; a legend names them if there are several.

    Args:
        title: what the chart shows, above it and for those who do not see it.
        diagonal: draw a dashed line from corner to corner.
    """
    parts = [_frame(x_axis, y_axis)]
    if diagonal:
        corners = (
            f"M{LEFT} {HEIGHT - BOTTOM}L{WIDTH - RIGHT} {TOP}"  # from (low, low) to (high, high)
        )
        parts.append(Markup('<path class="guide" d="{}"/>').format(corners))
    for index, curve in enumerate(curves):
        parts.append(_curve(curve, x_axis, y_axis, index))
    names = [(f"var(--s{i % NUM_COLOURS})", curve.label) for i, curve in enumerate(curves)]
    return _chart(title, join(parts), legend(names) if len(names) > 1 else Markup(""), caption)


def bar_chart(
    bars: Sequence[Bar], y_axis: Axis, *, title: str, x_label: str, caption: Content = ""
) -> Markup:
    """A figure with upright bars, each with its value on top."""
    room = (WIDTH - LEFT - RIGHT) / max(len(bars), 1)
    parts = [_frame(None, y_axis), _x_label(x_label)]
    for index, bar in enumerate(bars):
        centre = LEFT + room * (index + 0.5)
        parts.append(_text(centre, HEIGHT - BOTTOM + 16, bar.label, "middle", soft=True))
        if not math.isfinite(bar.value):
            parts.append(_text(centre, HEIGHT - BOTTOM - 4, "–", "middle"))
            continue
        top = _y(min(max(bar.value, y_axis.low), y_axis.high), y_axis)
        parts.append(
            Markup(
                '<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" rx="2"'
                ' style="fill:var(--s0)"/>'
            ).format(centre - 0.36 * room, top, 0.72 * room, HEIGHT - BOTTOM - top)
        )
        if room > 24:
            parts.append(_text(centre, top - 4, f"{bar.value:.1f}", "middle"))
    return _chart(title, join(parts), Markup(""), caption)


def _chart(title: str, body: Markup, names: Markup, caption: Content) -> Markup:
    drawing = Markup(
        '<svg viewBox="0 0 {} {}" role="img" aria-label="{}"><title>{}</title>{}</svg>'
    ).format(WIDTH, HEIGHT, title, title, body)
    return figure(Markup("<strong>{}</strong>{}{}").format(title, drawing, names), caption)


def _frame(x_axis: Axis | None, y_axis: Axis) -> Markup:
    """Lines of the grid with their numbers, and the axes with their labels."""
    parts = []
    for value in ticks(y_axis.low, y_axis.high):
        y = _y(value, y_axis)
        line = f"M{LEFT} {y:.1f}H{WIDTH - RIGHT}"
        parts.append(Markup('<path class="grid" d="{}"/>').format(line))
        parts.append(_text(LEFT - 6, y + 4, _written(value, y_axis), "end", soft=True))
    if x_axis is not None:
        for value in ticks(x_axis.low, x_axis.high):
            x = _x(value, x_axis)
            parts.append(
                _text(x, HEIGHT - BOTTOM + 16, _written(value, x_axis), "middle", soft=True)
            )
        parts.append(_x_label(x_axis.label))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        Markup('<text class="soft" transform="translate(12 {}) rotate(-90)" {}>{}</text>').format(
            middle, Markup('text-anchor="middle"'), y_axis.label
        )
    )
    edge = f"M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"
    parts.append(Markup('<path class="axis" d="{}"/>').format(edge))
    return join(parts)


def _x_label(text: str) -> Markup:
    return _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, text, "middle", soft=True)


def _text(x: float, y: float, text: str, anchor: str, *, soft: bool = False) -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}"{}>{}</text>').format(
        x, y, anchor, Markup(' class="soft"') if soft else Markup(""), text
    )


def _curve(curve: Curve, x_axis: Axis, y_axis: Axis, index: int) -> Markup:
    colour = f"var(--s{index % NUM_COLOURS})"
    xs, ys = np.asarray(curve.xs, float), np.asarray(curve.ys, float)
    finite = np.isfinite(xs) & np.isfinite(ys)
    xs, ys = xs.clip(x_axis.low, x_axis.high), ys.clip(y_axis.low, y_axis.high)
    points = [(_x(x, x_axis), _y(y, y_axis)) for x, y in zip(xs[finite], ys[finite], strict=True)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    parts = [Markup('<polyline class="curve" style="stroke:{}" points="{}"/>').format(colour, path)]
    if curve.dots:
        parts += [
            Markup('<circle cx="{:.1f}" cy="{:.1f}" r="3.5" style="fill:{}"/>').format(x, y, colour)
            for x, y in points
        ]
    return join(parts)


def _x(value: float, axis: Axis) -> float:
    return LEFT + (value - axis.low) / (axis.high - axis.low) * (WIDTH - LEFT - RIGHT)


def _y(value: float, axis: Axis) -> float:
    return HEIGHT - BOTTOM - (value - axis.low) / (axis.high - axis.low) * (HEIGHT - BOTTOM - TOP)


def ticks(low: float, high: float) -> list[float]:
    """Round numbers from ``low`` to ``high``, four to eight, a step of 1, 2 or 5 tens apart."""
    rough = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [count * step for count in range(first, last + 1)]


def _written(value: float, axis: Axis) -> str:
    if axis.percent:
        return f"{100 * value:.3g}"
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:.4g}"
