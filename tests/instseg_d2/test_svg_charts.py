"""Charts: where points and bars come to lie, and round numbers on the axes."""

import re

import numpy as np
import pytest

from instseg_d2.svg_charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    Bar,
    Curve,
    bar_chart,
    line_chart,
    ticks,
)
from tests.instseg_d2.test_html_page import HOSTILE, Outline


def points_of(chart: str) -> list[list[tuple[float, ...]]]:
    return [
        [tuple(map(float, point.split(","))) for point in points.split()]
        for points in re.findall(r'points="([^"]*)"', chart)
    ]


def test_curves_run_from_corner_to_corner() -> None:
    values = np.array([0.0, 0.5, np.nan, 1.0])
    curves = [Curve("a", values, values, dots=True), Curve("b", values, 5 - 100 * values)]
    chart = line_chart(curves, Axis("x"), Axis("y"), title="t")
    first, second = points_of(chart)
    low, high = (LEFT, HEIGHT - BOTTOM), (WIDTH - RIGHT, TOP)
    middle = ((LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2)
    assert first == [low, middle, high]
    assert second[0][1] == TOP  # what is beyond the axis stays in the picture
    assert second[-1][1] == HEIGHT - BOTTOM
    assert chart.count("<circle") == 3
    assert "legend" in chart
    assert "legend" not in line_chart(curves[:1], Axis("x"), Axis("y"), title="t")


def test_bars_are_as_high_as_their_values() -> None:
    bars = [Bar("a", 50.0), Bar("b", 100.0), Bar("c", float("nan"))]
    chart = bar_chart(bars, Axis("AP", 0, 100), title="t", x_label="x")
    heights = [float(height) for height in re.findall(r'<rect [^>]* height="([\d.]+)"', chart)]
    assert heights == [(HEIGHT - BOTTOM - TOP) / 2, HEIGHT - BOTTOM - TOP]
    assert ">50.0<" in chart
    assert ">–<" in chart


def test_names_stay_text() -> None:
    nothing = np.zeros(0)
    chart = line_chart(
        [Curve(HOSTILE, nothing, nothing), Curve("b", nothing, nothing)],
        Axis(HOSTILE), Axis(HOSTILE), title=HOSTILE, caption=HOSTILE, diagonal=True,
    )  # fmt: skip
    assert sum(HOSTILE in text for text in Outline(chart).texts) == 6
    assert "<script" not in chart
    Outline(bar_chart([], Axis("y"), title="t", x_label=HOSTILE))


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 100, [0, 20, 40, 60, 80, 100]),
        (0, 6000, [0, 1000, 2000, 3000, 4000, 5000, 6000]),
        (-1, 1, [-1, -0.5, 0, 0.5, 1]),
    ],
)
def test_numbers_on_axes_are_round(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)
