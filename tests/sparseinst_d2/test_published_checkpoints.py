"""A file with the names and shapes of each published model loads whole into our model for it."""

import json
from pathlib import Path

import pytest
import torch

from instseg_d2.checkpoint import InstSegCheckpointer
from instseg_d2.config import load_config
from instseg_d2.modeling import build_model
from tests.sparseinst_d2.test_goldens import MODELS


def test_every_published_model_is_here(shared: Path) -> None:
    cards = (shared / "goldens" / "sparseinst").glob("*.json")
    assert sorted(card.stem for card in cards) == sorted(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_a_published_checkpoint_loads_whole(shared: Path, tmp_path: Path, name: str) -> None:
    card = json.loads((shared / "goldens" / "sparseinst" / f"{name}.json").read_text())
    state = {}
    for index, (key, shape) in enumerate(card["shapes"].items()):
        dtype = torch.int64 if key.endswith("num_batches_tracked") else torch.float32
        # Of full shape, yet a number long in the file.
        state[key] = torch.tensor(index, dtype=dtype).expand(shape)
    torch.save({"model": state, "iteration": 269999}, tmp_path / "model_final.pth")
    cfg = load_config(f"sparseinst/{card['upstream_config']}", ["MODEL.DEVICE", "cpu"])
    model = build_model(cfg)

    checkpointer = InstSegCheckpointer(model)
    rest = checkpointer.load(str(tmp_path / "model_final.pth"))

    checkpointer.require_complete()
    report = checkpointer.report
    assert report is not None
    assert (report.missing, report.unexpected, report.misshaped) == ([], [], [])
    assert len(report.matched) == len(card["shapes"])
    assert rest["iteration"] == 269999
    first = {key: value.flatten()[0].item() for key, value in model.state_dict().items()}
    assert first == {key: index for index, key in enumerate(card["shapes"])}
