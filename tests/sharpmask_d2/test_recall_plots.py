from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure

from sharpmask_d2.recall import IOU_THRESHOLDS, RecallCounts
from sharpmask_d2.recall_plots import plot_average_recall, plot_recall_against_iou

LIMITS = (10, 100, 1000)


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Those that were saved."""
    saved: list[Figure] = []
    save = Figure.savefig

    def remember(figure: Figure, *args: object, **kwargs: object) -> None:
        saved.append(figure)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", remember)
    return saved


def some_counts() -> RecallCounts:
    counts = RecallCounts.empty(1000)
    generator = np.random.default_rng(0)
    for _ in range(5):
        counts.add_image(generator.random((300, 7)) ** 8, np.array([10.0] * 3 + [3000.0] * 4))
    return counts


def test_recall_against_iou_shows_the_recalls(tmp_path: Path, figures: list[Figure]) -> None:
    counts = some_counts()
    path = tmp_path / "iou.png"
    plot_recall_against_iou({"boxes": counts, "masks": counts}, LIMITS, str(path))
    assert cv2.imread(str(path)).std() > 1
    panels = figures[0].axes
    assert [axes.get_title(loc="left") for axes in panels] == ["boxes", "masks"]
    lines = {line.get_label().split(":")[0]: line for line in panels[0].lines}
    for limit in LIMITS:
        line = lines[f"{limit} proposals"]
        np.testing.assert_array_equal(line.get_xdata(), IOU_THRESHOLDS)
        np.testing.assert_array_equal(line.get_ydata(), counts.recalls()[:, limit - 1])


def test_average_recall_shows_the_curves(tmp_path: Path, figures: list[Figure]) -> None:
    counts = some_counts()
    path = tmp_path / "count.png"
    plot_average_recall({"masks": counts}, str(path))
    assert cv2.imread(str(path)).std() > 1
    (axes,) = figures[0].axes
    assert axes.get_xscale() == "log"
    small = next(line for line in axes.lines if line.get_label().startswith("small"))
    assert small.get_xdata()[[0, -1]].tolist() == [1, 1000]
    np.testing.assert_array_equal(small.get_ydata(), counts.average_recalls("small"))
    assert any(line.get_label() == "large objects: AUC none" for line in axes.lines)


def test_plots_without_objects_and_without_a_trace_in_pyplot(tmp_path: Path) -> None:
    before = pyplot.get_fignums()
    plot_average_recall({"boxes": RecallCounts.empty(1000)}, str(tmp_path / "count.png"))
    plot_recall_against_iou({"boxes": RecallCounts.empty(1000)}, LIMITS, str(tmp_path / "iou.png"))
    assert pyplot.get_fignums() == before
    assert (tmp_path / "iou.png").stat().st_size > 1000
