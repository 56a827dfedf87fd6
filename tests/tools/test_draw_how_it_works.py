from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from instseg_d2.config import load_config
from instseg_d2.modeling import build_model
from tools.draw_how_it_works import SHARPMASK, SPARSEINST, main


def weights(config: str, path: Path) -> str:
    torch.manual_seed(0)
    torch.save(build_model(load_config(config, ["MODEL.WEIGHTS", ""])).state_dict(), path)
    return str(path)


@pytest.mark.slow
def test_a_picture_for_each_name_in_the_page(repo: Path, tmp_path: Path) -> None:
    image = tmp_path / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8)).save(image)
    main([
        "--sparseinst", weights(SPARSEINST, tmp_path / "1.pth"),
        "--sharpmask", weights(SHARPMASK, tmp_path / "2.pth"),
        "--image", str(image), "--output", str(tmp_path / "out"),
    ])  # fmt: skip
    drawn = sorted((tmp_path / "out").iterdir())
    page = (repo / "docs" / "how_it_works.md").read_text()
    assert len(drawn) == 5
    for path in drawn:
        assert f"(images/{path.name})" in page
        assert np.asarray(Image.open(path)).ndim == 3


def test_without_any_weights(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([])
    assert "give --sparseinst, --sharpmask or both" in capsys.readouterr().err
