"""A checkpoint knows which class is which; weights alone would not tell."""

from pathlib import Path

import pytest

from instseg_d2.checkpoint import InstSegCheckpointer
from instseg_d2.class_order import names_in, order_problem
from instseg_d2.errors import WeightsError
from tests.small_model import Model

NAMES = ["bolt", "nut", "washer"]
OTHER_ORDER = ["bolt", "washer", "nut"]


def checkpointer(folder: Path, classes: list[str] | None) -> InstSegCheckpointer:
    return InstSegCheckpointer(Model(), str(folder), classes=classes)


@pytest.mark.parametrize("classes", [NAMES, ["screw", "nut", "washer"], ["a"], None])
def test_the_same_order_other_names_or_none_are_no_problem(classes: list[str] | None) -> None:
    assert order_problem(NAMES, classes) is None
    assert order_problem(classes, NAMES) is None


def test_the_message_has_what_to_give() -> None:
    problem = order_problem(NAMES, OTHER_ORDER)
    assert problem is not None
    assert "class 1 is 'nut' there, and 'washer' in the data" in problem
    assert "DATASETS.OWN.CLASSES \"('bolt', 'nut', 'washer')\"" in problem


@pytest.mark.parametrize("value", [None, "abc", {"a": 1}, ["a", 1], [["a"]]])
def test_what_is_no_list_of_names_is_none(value: object) -> None:
    assert names_in(value) is None


@pytest.mark.parametrize("save", ["save", "save_weights"])
def test_weights_are_not_evaluated_with_the_classes_in_another_order(
    tmp_path: Path, save: str
) -> None:
    getattr(checkpointer(tmp_path, NAMES), save)("model_final")
    path = str(tmp_path / "model_final.pth")
    for classes in (NAMES, None):
        same = checkpointer(tmp_path / "new", classes)
        same.load(path)
        same.require_complete()
    other = checkpointer(tmp_path / "new", OTHER_ORDER)
    other.load(path)  # to fine-tune
    with pytest.raises(WeightsError, match=r"MODEL\.WEIGHTS: it was trained with .* another order"):
        other.require_complete()
    old = InstSegCheckpointer(Model(), str(tmp_path))
    old.save("old")
    other.load(str(tmp_path / "old.pth"))
    other.require_complete()


def test_a_training_is_not_resumed_with_the_classes_in_another_order(tmp_path: Path) -> None:
    checkpointer(tmp_path, NAMES).save("model_0000001")
    checkpointer(tmp_path, NAMES).resume_or_load("", resume=True)
    with pytest.raises(WeightsError, match=r"from .*model_0000001\.pth: it was trained"):
        checkpointer(tmp_path, OTHER_ORDER).resume_or_load("", resume=True)
