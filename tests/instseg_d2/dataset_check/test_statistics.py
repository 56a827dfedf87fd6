import json

import numpy as np
import pytest

from instseg_d2.dataset_check.check import check_dataset
from instseg_d2.dataset_check.plots import plots, save_plots
from instseg_d2.dataset_check.statistics import statistics_of


def content():
    """Two images of 200 x 100 pixels, a third one without objects."""

    def annotation(number, image, category, side, **more):
        polygon = [0, 0, side, 0, side, side, 0, side]
        return {"id": number, "image_id": image, "category_id": category, "area": side * side,
                "bbox": [0, 0, side, side], "iscrowd": 0, "segmentation": [polygon],
                **more}  # fmt: skip

    return {
        "images": [
            {"id": i, "file_name": f"{i}.png", "height": 100, "width": 200} for i in (1, 2, 3)
        ],
        "categories": [{"id": 9, "name": "b $x^$ \u732b"}, {"id": 4, "name": "a"}],
        "annotations": [
            annotation(1, 1, 4, 10),
            annotation(2, 1, 4, 32),
            annotation(3, 1, 9, 96),
            annotation(4, 2, 4, 100),
            annotation(5, 2, 9, 50, iscrowd=1),
        ],
    }


@pytest.fixture
def statistics(tmp_path):
    def statistics(content):
        (tmp_path / "a.json").write_text(json.dumps(content))
        return statistics_of(check_dataset(str(tmp_path / "a.json"), None))

    return statistics


def test_figures_are_those_counted_by_hand(statistics):
    found = statistics(content())
    assert found.per_image.tolist() == [3, 1, 0]
    assert found.areas.tolist() == [100, 1024, 9216, 10000]
    assert found.size_counts() == {"small": 1, "medium": 1, "large": 2}
    assert found.crowds == 1
    assert found.num_masks == 10
    np.testing.assert_allclose(found.shares, found.areas / 20000)
    np.testing.assert_allclose(found.centres[0], [5 / 200, 5 / 100])
    # In the order of the ids: name, objects, crowds, images, small, medium, large.
    assert [tuple(one) for one in found.classes] == [
        ("a", 3, 0, 2, 1, 1, 1),
        ("b $x^$ \u732b", 1, 1, 1, 0, 0, 1),
    ]
    summary = json.loads(json.dumps(found.summary()))
    assert summary["objects_per_image"] == {"least": 0, "median": 1, "mean": 4 / 3, "most": 3}
    assert "3 images, 1 of them without objects" in found.lines()[0]


def test_nothing_can_be_counted_and_plotted(statistics, tmp_path):
    found = statistics({"images": [], "categories": [], "annotations": []})
    assert found.summary()["objects"] == 0
    assert found.lines()
    save_plots(found, str(tmp_path / "plots.png"))
    assert (tmp_path / "plots.png").stat().st_size > 1000


@pytest.mark.filterwarnings("error")
def test_every_plot_has_a_title_and_bears_odd_names(statistics):
    odd = content()
    odd["categories"] += [{"id": 100 + i, "name": f"{i} \\frac{{$"} for i in range(60)]
    found = plots(statistics(odd))
    for title, figure in found.items():
        assert figure.axes[0].get_title(loc="left") == title
        figure.canvas.draw()
