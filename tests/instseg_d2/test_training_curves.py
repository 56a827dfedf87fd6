import json
import logging
from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot
from PIL import Image

from instseg_d2 import training_curves
from instseg_d2.errors import DataError
from instseg_d2.training_curves import losses_and_precisions, plot_training_curves


@pytest.fixture
def plotted(tmp_path, monkeypatch):
    """Write lines (dicts or raw text), plot them and return what each panel was given."""
    panels = {}
    tidy = training_curves._tidy

    def spy(axes, title):
        tidy(axes, title)
        panels[title] = {
            line.get_label(): list(zip(*map(list, line.get_data()), strict=True))
            for line in axes.get_lines()
            if not line.get_label().startswith("_")
        }

    monkeypatch.setattr(training_curves, "_tidy", spy)

    def plot(lines):
        text = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        (tmp_path / "metrics.json").write_text("\n".join(text))
        plot_training_curves(str(tmp_path / "metrics.json"), str(tmp_path / "curves.png"))
        assert not pyplot.get_fignums()
        assert np.asarray(Image.open(tmp_path / "curves.png").convert("L")).std() > 5
        return panels

    return plot


def loss(iteration, total, **more):
    return {"iteration": iteration, "total_loss": total, "lr": 0.1, **more}


def test_losses_and_precision_have_a_panel_each(plotted):
    panels = plotted(
        [
            loss(19, 3.0, loss_mask=2.0, loss_ce=1.0, val_loss_ce=9.0),
            loss(39, 2.0, loss_mask=1.5, loss_ce=0.5),
            {"iteration": 39, "segm/AP": 12.5, "segm/AP50": 30.0, "bbox/AP": 20.0},
        ]
    )
    assert panels["training loss"] == {
        "total": [(19, 3.0), (39, 2.0)],
        "mask": [(19, 2.0), (39, 1.5)],
        "ce": [(19, 1.0), (39, 0.5)],
    }
    assert panels["validation mask AP"] == {"mask AP": [(39, 12.5)]}


def test_no_precision_no_panel(plotted):
    assert list(plotted([loss(0, 1.0), loss(1, 0.5)])) == ["training loss"]


def test_several_data_sets_are_told_apart(plotted):
    panels = plotted([loss(9, 1.0), {"iteration": 9, "a/segm/AP": 1.0, "b/segm/AP": 2.0}])
    assert panels["validation mask AP"] == {"a": [(9, 1.0)], "b": [(9, 2.0)]}


@pytest.mark.parametrize(
    "torn", ['{"iteration": 30, "total_lo', "", "null", "[1]", '{"a": 1}', "\0"]
)
def test_torn_and_foreign_lines_are_passed_over(plotted, torn, caplog):
    with caplog.at_level(logging.WARNING, training_curves.__name__):
        panels = plotted([loss(10, 3.0), torn, loss(20, 2.0), torn])
    assert panels["training loss"]["total"] == [(10, 3.0), (20, 2.0)]
    assert ("passed over 2 lines" in caplog.text) == bool(torn)


def test_after_resuming_only_the_later_run_counts(plotted):
    panels = plotted([loss(i, 9.0) for i in (10, 20, 30, 40)] + [loss(30, 1.0)])
    assert panels["training loss"]["total"] == [(10, 9.0), (20, 9.0), (30, 1.0)]


def test_values_that_are_not_finite_are_left_out(plotted):
    panels = plotted([loss(1, 1.0), loss(2, float("nan")), loss(3, float("inf")), loss(4, None)])
    assert panels["training loss"]["total"] == [(1, 1.0)]
    assert plotted([loss(1, float("nan"))])["training loss"]["total"] == []


def test_smoothing_keeps_constants_lines_and_the_mean_of_the_window():
    smooth = training_curves._smooth
    np.testing.assert_allclose(smooth(np.full(100, 3.0)), 3.0)
    line = np.arange(100.0)
    np.testing.assert_allclose(smooth(line)[2:-2], line[2:-2])
    spike = np.zeros(100)
    spike[50] = 5
    np.testing.assert_allclose(smooth(spike)[47:54], [0, 1, 1, 1, 1, 1, 0], atol=1e-12)
    np.testing.assert_allclose(smooth(np.array([1.0, 5.0])), [1, 5])
    assert smooth(np.zeros(0)).shape == (0,)


@pytest.mark.parametrize("content", ["", "{}\n", '{"iteration": 3, "lr": 1}\n'])
def test_files_without_losses(tmp_path, content):
    (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(DataError, match=r"metrics\.json has no losses yet"):
        plot_training_curves(str(tmp_path / "metrics.json"), str(tmp_path / "a.png"))
    assert not (tmp_path / "a.png").exists()


def test_absent_file(tmp_path):
    with pytest.raises(DataError, match="OUTPUT_DIR"):
        plot_training_curves(str(tmp_path / "metrics.json"), str(tmp_path / "a.png"))


def test_long_logs_are_read_in_a_moment(plotted):
    assert len(plotted([loss(i, 1.0) for i in range(20_000)])["training loss"]["total"]) == 20_000


def test_values_of_earlier_iterations_may_come_later(tmp_path: Path) -> None:
    """As the gradient's norm, which is not written at each iteration."""
    lines = [
        {"iteration": 19, "total_loss": 3.0},
        {"iteration": 0, "grad_norm": 1.0},
        {"iteration": 39, "total_loss": 2.0},
        {"iteration": 20, "grad_norm": 1.0},
    ]
    path = tmp_path / "metrics.json"
    path.write_text("\n".join(map(json.dumps, lines)))
    losses, _ = losses_and_precisions(str(path))
    iterations, values = losses["total_loss"]
    assert iterations.tolist() == [19, 39]
    assert values.tolist() == [3.0, 2.0]
