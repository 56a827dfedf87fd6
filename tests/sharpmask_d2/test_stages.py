"""DeepMask, then SharpMask, through the trainer and ``train_net.py``."""

import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path, PurePosixPath

import pytest
import torch
from detectron2.config import CfgNode

from instseg_d2.checkpoint import InstSegCheckpointer
from instseg_d2.config import load_config
from instseg_d2.data.config_datasets import register_config_datasets
from instseg_d2.engine import Trainer
from instseg_d2.errors import WeightsError
from instseg_d2.weights.convert import Options, convert_file
from tests.sharpmask_d2.small_networks import patches

ITERATIONS = 3
FirstStage = Callable[[str], Path]


def config(name: str, tiny: list[str], output: Path, *more: str) -> CfgNode:
    own = ["SOLVER.MAX_ITER", str(ITERATIONS), "SOLVER.BASE_LR", "0.01", "OUTPUT_DIR", str(output)]
    cfg = load_config(f"sharpmask/{name}", [*tiny, *own, *more])
    register_config_datasets(cfg)
    cfg.freeze()
    return cfg


def trained(cfg: CfgNode) -> Trainer:
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    return trainer


def saved(output: Path) -> dict[str, torch.Tensor]:
    return torch.load(output / "model_final.pth", weights_only=True)["model"]


@pytest.fixture(scope="module")
def stages_1(tiny_overrides: list[str], tmp_path_factory: pytest.TempPathFactory) -> FirstStage:
    """norm -> the folder of a DeepMask trained with it."""

    @cache
    def train(norm: str) -> Path:
        output = tmp_path_factory.mktemp("deepmask")
        cfg = config("deepmask_r50", tiny_overrides, output, "MODEL.RESNETS.NORM", norm)
        trainer = trained(cfg)
        assert set(trainer.test_results) == {"mask", "score"}
        assert not math.isnan(trainer.test_results["mask"]["mean IoU"])
        return output

    return train


@pytest.fixture
def stage_1(stages_1: FirstStage) -> Path:
    return stages_1("FrozenBN")


def stage_2_weights(stage_1: Path) -> list[str]:
    return ["MODEL.WEIGHTS", str(stage_1 / "model_final.pth")]


@pytest.mark.parametrize("norm", ["FrozenBN", "BN"])
@pytest.mark.parametrize("name", ["sharpmask_r50", "sharpmask_r50_multiscale"])
def test_exactly_the_refinement_trains(
    name: str, norm: str, stages_1: FirstStage, tiny_overrides: list[str], tmp_path: Path
) -> None:
    stage_1 = stages_1(norm)
    more = [*stage_2_weights(stage_1), "MODEL.RESNETS.NORM", norm]
    # Halved to a single channel the refinement may start dead.
    more += ["MODEL.SHARP_MASK.REFINEMENT.CHANNELS", "64"]
    trainer = Trainer(config(name, tiny_overrides, tmp_path, *more))
    trainer.resume_or_load(resume=False)
    start = {key: value.clone() for key, value in trainer.model.state_dict().items()}
    modes = []
    trainer.model.backbone.register_forward_hook(
        lambda *_: modes.append(
            [any(m.training for m in part.modules()) for part in
             (trainer.model.backbone, trainer.model.head, trainer.model.refinement)]
        )
    )  # fmt: skip
    trainer.train()
    assert modes[:ITERATIONS] == [[False, False, True]] * ITERATIONS
    deepmask, final = saved(stage_1), saved(tmp_path)
    for key, value in deepmask.items():
        assert torch.equal(final[key], value), key
    learned = [key for key in final if key not in deepmask]
    assert learned == [key for key in final if key.startswith("refinement.")]
    assert any(not torch.equal(final[key], start[key]) for key in learned)
    weights = [key for key in learned if key.endswith("weight")]
    assert [key for key in weights if torch.equal(final[key], start[key])] == []
    assert set(trainer.test_results) == {"mask", "coarse mask", "score"}


@pytest.mark.parametrize("norm", ["FrozenBN", "BN"])
def test_fine_tuning_trains_everything(
    norm: str, stages_1: FirstStage, tiny_overrides: list[str], tmp_path: Path
) -> None:
    stage_1 = stages_1(norm)
    more = [*stage_2_weights(stage_1), "MODEL.RESNETS.NORM", norm]
    trained(config("sharpmask_r50_finetune", tiny_overrides, tmp_path, *more))
    deepmask, final = saved(stage_1), saved(tmp_path)
    parameters = [key for key in deepmask if key.endswith(("conv1.weight", "encode.weight"))]
    assert len(parameters) > 10
    assert all(not torch.equal(final[key], deepmask[key]) for key in parameters)


def test_one_network_answers_coarse_and_sharp(
    stage_1: Path, tiny_overrides: list[str], tmp_path: Path, repo: Path
) -> None:
    """``--eval-only`` of a DeepMask checkpoint's successor, in both ways; coarse it is as good as
    the DeepMask on the same patches."""
    trainer = trained(config("sharpmask_r50", tiny_overrides, tmp_path, *stage_2_weights(stage_1)))
    results = trainer.test_results
    deepmask = Trainer(config("deepmask_r50", tiny_overrides, tmp_path, *stage_2_weights(stage_1)))
    deepmask.resume_or_load(resume=False)
    same_patches = ["MODEL.SHARP_MASK.SAMPLING.MASK_SHARE", "1.0"]
    cfg = config("deepmask_r50", tiny_overrides, tmp_path, *same_patches)
    assert Trainer.test(cfg, deepmask.model)["mask"] == results["coarse mask"]
    command = [sys.executable, str(repo / "train_net.py"), "--eval-only", "--config-file"]
    overrides = [*tiny_overrides, "OUTPUT_DIR", str(tmp_path / "eval")]
    overrides += ["MODEL.WEIGHTS", str(tmp_path / "model_final.pth")]
    overrides += ["MODEL.SHARP_MASK.EVALUATION", "patches"]
    for output in ("sharp", "coarse"):
        done = subprocess.run(
            [*command, "sharpmask/sharpmask_r50", *overrides, "MODEL.SHARP_MASK.OUTPUT", output],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        task = {"sharp": "mask", "coarse": "coarse mask"}[output]
        assert f"{results[task]['mean IoU']:.4f}" in done.stdout


def test_resuming_goes_on(stage_1: Path, tiny_overrides: list[str], tmp_path: Path) -> None:
    """Both stages; the second needs the file of the first no more."""
    longer = ["SOLVER.MAX_ITER", str(ITERATIONS + 2)]
    first, second = tmp_path / "deepmask", tmp_path / "sharpmask"
    shutil.copytree(stage_1, first)
    weights = stage_2_weights(first)
    trained(config("sharpmask_r50", tiny_overrides, second, *weights))
    before = saved(second)
    trainer = Trainer(config("deepmask_r50", tiny_overrides, first, *longer))
    trainer.resume_or_load(resume=True)
    assert trainer.start_iter == ITERATIONS
    (first / "model_final.pth").unlink()
    trainer = Trainer(config("sharpmask_r50", tiny_overrides, second, *longer, *weights))
    trainer.resume_or_load(resume=True)
    assert trainer.start_iter == ITERATIONS
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    trainer.train()
    assert trainer.iter == ITERATIONS + 2
    changed = {
        name for name, value in saved(second).items() if not torch.equal(value, before[name])
    }
    assert changed
    assert all(name.startswith("refinement.") for name in changed)


# -------------------------------------------------------------------------- what may be loaded


def started(name: str, tiny: list[str], output: Path, weights: str | Path, *more: str) -> Trainer:
    """A trainer that has loaded its weights, and not trained."""
    more = ("MODEL.WEIGHTS", str(weights), "MODEL.LOADING.ALLOW_PARTIAL", "True", *more)
    trainer = Trainer(config(name, tiny, output, *more))
    trainer.resume_or_load(resume=False)
    return trainer


def file_of(name: str, tiny: list[str], path: Path, *more: str) -> Path:
    """The weights of an untrained model."""
    model = Trainer.build_model(load_config(name, [*tiny, *more]))
    torch.save({"model": model.state_dict()}, path)
    return path


both = pytest.mark.parametrize("name", ["sharpmask_r50", "sharpmask_r50_finetune"])


@both
@pytest.mark.parametrize("query", ["", "?matching_heuristics=True"])
@pytest.mark.parametrize(
    ("other", "more", "said"),
    [
        ("sparseinst/sparse_inst_r50_giam", [], r"tensors are absent \(head.*of SparseInst"),
        (
            "sharpmask/deepmask_r50_head_b", [],
            r"are left over \(head\.encode_score.*of DeepMask",
        ),
        (
            "sharpmask/deepmask_r50", ["MODEL.SHARP_MASK.HEAD.ENCODING_DIM", "12"],
            r"head C, windows of 4 cells a side, encodings of 16.*have another shape than here "
            r"\(.*head\.encode\.weight \(12, 8, 4, 4\) -> \(16, 8, 4, 4\).*encodings of 12",
        ),
    ],
)  # fmt: skip
def test_a_file_of_another_model_is_refused_and_named(
    name: str, query: str, other: str, more: list[str], said: str,
    tiny_overrides: list[str], tmp_path: Path,
) -> None:  # fmt: skip
    file = file_of(other, tiny_overrides, tmp_path / "other.pth", *more)
    with pytest.raises(WeightsError, match=rf"not of this DeepMask \(.*{said}") as caught:
        started(name, tiny_overrides, tmp_path, f"{file}{query}")
    assert f"{file}{query} is of " in str(caught.value)


def test_a_file_that_needs_trust_is_refused_without_being_read_again(
    tiny_overrides: list[str], tmp_path: Path
) -> None:
    """Describing a file must not fail where loading it did not."""
    file = file_of("sparseinst/sparse_inst_r50_giam", tiny_overrides, tmp_path / "other.pth")
    content = torch.load(file, weights_only=True)
    torch.save({**content, "author": PurePosixPath("me")}, file)
    with pytest.raises(WeightsError, match=rf"They are from {file}"):
        started("sharpmask_r50", tiny_overrides, tmp_path, file, "MODEL.LOADING.TRUST_FILE", "True")


def test_frozen_needs_a_deepmask_free_is_content_with_less(
    tiny_overrides: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = Trainer.build_model(load_config("sharpmask/deepmask_r50", tiny_overrides)).state_dict()
    own = {key.removeprefix("backbone."): v for key, v in state.items() if "backbone" in key}
    later = {"res5.0.conv1.weight": torch.ones(2, 2, 1, 1), "stem.fc.weight": torch.ones(3, 4)}
    file = tmp_path / "backbone.pth"
    torch.save({"model": {**own, **later}}, file)
    for weights in ("", str(file), f"{file}?matching_heuristics=True"):
        with pytest.raises(WeightsError, match=r"FREEZE_FEEDFORWARD .* train one first"):
            started("sharpmask_r50", tiny_overrides, tmp_path, weights)
        caplog.clear()
        started("sharpmask_r50_finetune", tiny_overrides, tmp_path, weights)
        said = "start at random" if weights else "MODEL.WEIGHTS is empty: all of SharpMask starts"
        assert said in caplog.text


@both
@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("FORM", "original", r"left over \(refinement.*convert_checkpoint.py.*FORM refactored"),
        ("LAYOUT", "paper", r"have another shape than here \(refinement"),
        ("SCHEDULE", "constant", r"have another shape than here \(refinement"),
    ],
)
def test_a_refinement_of_another_kind_is_refused(
    name: str, key: str, value: str, said: str, tiny_overrides: list[str], tmp_path: Path
) -> None:
    other = [f"MODEL.SHARP_MASK.REFINEMENT.{key}", value]
    file = file_of("sharpmask/sharpmask_r50", tiny_overrides, tmp_path / "other.pth", *other)
    with pytest.raises(WeightsError, match=rf"another than .*{said}") as caught:
        started(name, tiny_overrides, tmp_path, file)
    assert "Give FORM, LAYOUT, SCHEDULE" in str(caught.value)
    started(name, tiny_overrides, tmp_path, file, *other)


def test_a_new_refinement_may_start_on_the_deepmask_of_another(
    tiny_overrides: list[str], tmp_path: Path
) -> None:
    """Of which nothing is taken, as their layers have no name in common."""
    file = file_of("sharpmask/sharpmask_r50_multiscale", tiny_overrides, tmp_path / "other.pth")
    started("sharpmask_r50", tiny_overrides, tmp_path, file)


@torch.no_grad()
def test_a_file_of_the_original_form_converts(tiny_overrides: list[str], tmp_path: Path) -> None:
    name, source, dest = "sharpmask/sharpmask_r50", tmp_path / "o.pth", tmp_path / "r.safetensors"
    form = ["MODEL.SHARP_MASK.REFINEMENT.FORM", "original"]
    torch.save({"model": (model := build(name, tiny_overrides, *form)).state_dict()}, source)
    said = dict(convert_file(str(source), str(dest), Options()))
    assert "FORM refactored" in said["note"]
    other = build(name, [*tiny_overrides, "MODEL.WEIGHTS", str(dest)])
    InstSegCheckpointer(other).load(str(dest))
    batch = patches(model, "mm")
    for ours, theirs in zip(other(batch), model(batch), strict=True):
        torch.testing.assert_close(ours["mask_logits"], theirs["mask_logits"])


def build(name: str, tiny: list[str], *more: str) -> torch.nn.Module:
    return Trainer.build_model(load_config(name, [*tiny, *more])).eval()
