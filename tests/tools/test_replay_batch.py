"""A training that meets a broken batch, and the program that shows where it broke."""

from pathlib import Path

import pytest
import torch
from detectron2.structures import BitMasks, Instances

from instseg_d2.config import load_config
from instseg_d2.engine.nonfinite import StepGuard
from instseg_d2.errors import NonFiniteStepError
from instseg_d2.modeling import build_model
from tools.replay_batch import main


def broken_step(folder: Path, overrides: list[str], what: str) -> Path:
    """Save a step of a small SparseInst that is not finite because of the weights or the data."""
    cfg = load_config("sparseinst/sparse_inst_r50_giam", overrides)
    model = build_model(cfg).train()
    if what == "weights":  # finite, but not their products
        torch.nn.init.constant_(model.decoder.inst_branch.fc.weight, 1e38)
    instances = Instances((64, 96))
    instances.gt_classes = torch.tensor([1])
    instances.gt_masks = BitMasks(torch.ones(1, 64, 96, dtype=torch.bool))
    image = torch.rand(3, 64, 96) * 255
    if what == "data":
        image[0, 0, 0] = torch.nan
    batch = [{"image": image, "file_name": "street.jpg", "image_id": 3, "instances": instances}]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    guard = StepGuard(model, optimizer, output_dir=str(folder), config=cfg.dump())
    guard.before_step([batch])
    losses = model(batch)
    sum(losses.values()).backward()
    with pytest.raises(NonFiniteStepError):
        guard.allows_step(7, losses)
    return folder / "nonfinite_0000007.pth"


@pytest.mark.parametrize(
    ("what", "first"),
    [
        ("weights", "in the forward pass: what comes out of decoder.inst_branch.fc (Linear)"),
        ("data", "in the data: image street.jpg"),
    ],
)
def test_the_program_says_where_it_begins(
    tmp_path: Path, tiny_overrides: list[str], capsys: pytest.CaptureFixture[str], what: str,
    first: str,
) -> None:  # fmt: skip
    main([str(broken_step(tmp_path, tiny_overrides, what)), "--device", "cpu"])
    printed = capsys.readouterr().out
    assert "street.jpg (image id 3)" in printed
    assert f"first value that is not finite: {first}" in printed
    rows = {line.split()[0]: line.split()[1:] for line in printed.splitlines() if line}
    for name in ("loss_ce", "loss_mask", "loss_dice", "loss_objectness"):
        then, now = rows[name]
        assert then == now
    assert "nan" in rows["loss_ce"]


def test_other_files_end_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "model_final.pth"
    torch.save({"model": {}}, path)
    for file, match in (
        (path, "no file of a training step"),
        (tmp_path / "no", "does not exist; check the path"),
    ):
        with pytest.raises(SystemExit, match=match) as caught:
            main([str(file)])
        assert "\n" not in str(caught.value)
