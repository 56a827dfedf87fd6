"""The program as a user runs it, on small networks with random weights."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.data.build import load_proposals_into_dataset

from instseg_d2.config import load_config
from instseg_d2.data.config_datasets import register_config_datasets
from instseg_d2.data.proposal_checks import check_proposals
from instseg_d2.data.proposal_files import read_proposal_file
from instseg_d2.modeling import build_model
from tools.make_proposals import main
from tools.proposal_files import main as merge

REPO = Path(__file__).resolve().parents[2]
TOOL = REPO / "tools" / "make_proposals.py"
NUM = 7
RPN_YAML = """
VERSION: 2
MODEL:
  META_ARCHITECTURE: ProposalNetwork
  RPN: {PRE_NMS_TOPK_TEST: 100, POST_NMS_TOPK_TEST: 20}
"""


def environment():
    """Of a process: as here, where the cache is that of the tests."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def tiny(tiny_overrides):
    return [*tiny_overrides, "DATASETS.SHAPES.NUM_VAL", str(NUM), "DATASETS.SHAPES.SEED", "5"]


@pytest.fixture(scope="module")
def dataset(tiny):
    """The dicts of ``shapes_val``; its images are of these tests alone."""
    register_config_datasets(load_config("", tiny))
    return DatasetCatalog.get("shapes_val")


def network(folder, config, overrides):
    """Options for a network with random weights."""
    torch.manual_seed(0)
    model = build_model(load_config(config, overrides))
    torch.save({"model": model.state_dict()}, folder / "weights.pth")
    return config, [*overrides, "MODEL.WEIGHTS", str(folder / "weights.pth")]


@pytest.fixture(scope="module")
def rpn(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rpn")
    (folder / "rpn.yaml").write_text(RPN_YAML)
    return network(folder, str(folder / "rpn.yaml"), tiny)


@pytest.fixture(scope="module")
def sharpmask(tiny, tmp_path_factory):
    few = ["MODEL.SHARP_MASK.PROPOSALS.NUM", "12", "MODEL.SHARP_MASK.PROPOSALS.SCALES", "(1.0,)"]
    return network(tmp_path_factory.mktemp("net"), "sharpmask/sharpmask_r50", [*tiny, *few])


def arguments(net, output, *options, dataset="shapes_val"):
    config, overrides = net
    named = ["--config-file", config, "--dataset", dataset, "--output", str(output)]
    return [*named, "--part-size", "2", *options, *overrides]


def run(net, output, *options, **named):
    main(arguments(net, output, *options, **named))


def error_of(net, output, *options, **named):
    with pytest.raises(SystemExit) as error:
        run(net, output, *options, **named)
    assert error.value.code not in (None, 0)
    return str(error.value.code)


# --------------------------------------------------------------------------------------- models


def test_a_region_proposal_network(rpn, dataset, tmp_path, capsys):
    run(rpn, tmp_path)
    said = capsys.readouterr().out
    assert f"{NUM} images done" in said
    assert str(tmp_path / "shapes_val_boxes.pkl") in said
    assert not (tmp_path / "shapes_val_masks.json").exists()
    report = check_proposals(tmp_path / "shapes_val_boxes.pkl", dataset)
    assert (report.images, report.notes()) == (NUM, [])
    assert 0 < report.most <= 20
    loaded = load_proposals_into_dataset(dataset, str(tmp_path / "shapes_val_boxes.pkl"))
    assert sum(len(record["proposal_boxes"]) for record in loaded) == report.proposals


def test_sharpmask(sharpmask, dataset, tmp_path):
    run(sharpmask, tmp_path)
    boxes = list(read_proposal_file(tmp_path / "shapes_val_boxes.pkl"))
    masks = {p.image_id: p for p in read_proposal_file(tmp_path / "shapes_val_masks.json")}
    assert [p.image_id for p in boxes] == [record["image_id"] for record in dataset]
    assert check_proposals(tmp_path / "shapes_val_masks.json", dataset).has_masks
    assert masks
    for proposals in boxes:
        assert len(proposals) <= 12
        if len(proposals):
            tight = mask_util.toBbox(masks[proposals.image_id].rles)
            tight[:, 2:] += tight[:, :2]
            assert (tight == proposals.boxes).all()

    run(sharpmask, tmp_path / "boxes", "--no-masks")
    assert sorted(path.name for path in (tmp_path / "boxes").iterdir()) == [
        "shapes_val_boxes.pkl",
        "shapes_val_parts",
    ]
    again = tmp_path / "boxes" / "shapes_val_boxes.pkl"
    assert again.read_bytes() == (tmp_path / "shapes_val_boxes.pkl").read_bytes()


def test_options_that_reduce(rpn, tmp_path, capsys):
    run(rpn, tmp_path, "--limit", "3", "--proposals-per-image", "5")
    images = list(read_proposal_file(tmp_path / "shapes_val_boxes.pkl"))
    assert [p.image_id for p in images] == [1, 2, 3]
    assert max(map(len, images)) == 5
    assert "4 more images of the data set were not asked for" in capsys.readouterr().out


# -------------------------------------------------------------------------------- going on


def test_shards(rpn, tmp_path, capsys):
    run(rpn, tmp_path / "one")
    run(rpn, tmp_path / "two", "--shard", "2/2")
    assert "3 of 7 images are for other shards to do" in capsys.readouterr().out
    assert not (tmp_path / "two" / "shapes_val_boxes.pkl").exists()
    run(rpn, tmp_path / "two", "--shard", "1/2")
    first, second = (tmp_path / name / "shapes_val_boxes.pkl" for name in ("one", "two"))
    assert first.read_bytes() == second.read_bytes()


def test_a_killed_run_goes_on(rpn, tmp_path, capsys):
    many = (rpn[0], [*rpn[1], "DATASETS.SHAPES.NUM_VAL", "60"])
    run(many, tmp_path / "whole")  # also draws the images
    command = [sys.executable, str(TOOL), *arguments(many, tmp_path / "killed")]
    parts = tmp_path / "killed" / "shapes_val_parts"
    process = subprocess.Popen(
        command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        start = time.monotonic()
        while len(list(parts.glob("*.part"))) < 3 and time.monotonic() - start < 400:
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL  # it was not done
    assert not (tmp_path / "killed" / "shapes_val_boxes.pkl").exists()
    kept = {path.name: path.stat().st_mtime_ns for path in parts.glob("*.part")}
    assert 3 <= len(kept) < 30

    capsys.readouterr()
    run(many, tmp_path / "killed")
    said = capsys.readouterr()
    assert f"{60 - 2 * len(kept)} images done, {2 * len(kept)} before" in said.out
    now = {path.name: path.stat().st_mtime_ns for path in parts.glob("*.part")}
    assert kept.items() <= now.items()
    whole, killed = (tmp_path / name / "shapes_val_boxes.pkl" for name in ("whole", "killed"))
    assert whole.read_bytes() == killed.read_bytes()
    # The bar says how fast, and how long still.
    assert "60/60 [" in said.err
    assert "image/s" in said.err


def test_another_model_or_option_needs_a_word(rpn, tmp_path, capsys):
    run(rpn, tmp_path, "--limit", "2")
    other = (rpn[0], [*rpn[1], "MODEL.RPN.NMS_THRESH", "0.5"])
    message = error_of(other, tmp_path)
    assert "MODEL.RPN.NMS_THRESH: 0.7 and 0.5" in message
    assert "--overwrite" in message
    assert "--proposals-per-image: None and 3" in error_of(
        rpn, tmp_path, "--proposals-per-image", "3"
    )
    run(other, tmp_path, "--overwrite")
    assert f"{NUM} images done\n" in capsys.readouterr().out


# ---------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize("num_workers", ["0", "2"])
def test_a_bad_image(rpn, dataset, tmp_path, num_workers, capsys):
    rpn = (rpn[0], [*rpn[1], "DATALOADER.NUM_WORKERS", num_workers])
    bad = Path(dataset[3]["file_name"])
    good = bad.read_bytes()
    try:
        bad.write_bytes(b"no image")
        message = error_of(rpn, tmp_path)
        assert f"image {bad} (image id 4) cannot be read" in message
        message = error_of(rpn, tmp_path, "--skip-errors")
        assert "Mend or remove them" in message
        assert f"image {bad} (image id 4) cannot be read" in capsys.readouterr().err
        assert not (tmp_path / "shapes_val_boxes.pkl").exists()
    finally:
        bad.write_bytes(good)
    run(rpn, tmp_path)
    assert "1 images done, 6 before" in capsys.readouterr().out
    assert len(list(read_proposal_file(tmp_path / "shapes_val_boxes.pkl"))) == NUM


def test_weights_that_are_not_finite(sharpmask, tmp_path):
    config, overrides = sharpmask
    weights = torch.load(overrides[-1])["model"]
    for tensor in weights.values():
        tensor.fill_(torch.nan)
    torch.save({"model": weights}, tmp_path / "nan.pth")
    broken = (config, [*overrides, "MODEL.WEIGHTS", str(tmp_path / "nan.pth")])
    message = error_of(broken, tmp_path / "out", "--skip-errors")
    assert message.startswith(f"For {NUM} of them the model's answer is not finite: MODEL.WEIGHTS")
    assert "mend" not in message


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--limit", "8"], "--limit 8: shapes_val has 7 images"),
        (["--proposals-per-image", "21"], "raise it: MODEL.RPN.POST_NMS_TOPK_TEST 21"),
        (["--masks"], "--masks was given, but MODEL.META_ARCHITECTURE ProposalNetwork makes boxes"),
    ],
)
def test_more_than_there_is(rpn, tmp_path, options, said):
    assert said in error_of(rpn, tmp_path, *options)
    assert not list(tmp_path.glob("*.pkl"))


def test_more_masks_than_the_network_is_asked_for(sharpmask, tmp_path):
    message = error_of(sharpmask, tmp_path, "--proposals-per-image", "13")
    assert "is more than MODEL.SHARP_MASK.PROPOSALS.NUM 12" in message


def test_what_is_missing(rpn, tmp_path):
    config, overrides = rpn
    untrained = (config, [*overrides, "MODEL.WEIGHTS", ""])
    assert "MODEL.WEIGHTS is empty" in error_of(untrained, tmp_path)
    assert "'shape_val' is not registered. Did you mean" in error_of(
        rpn, tmp_path, dataset="shape_val"
    )
    assert "nowhere.yaml" in error_of(("nowhere.yaml", overrides), tmp_path)


def test_models_without_proposals_are_refused(tiny, tmp_path):
    net = network(tmp_path, "sparseinst/sparse_inst_r50_giam", tiny)
    assert "SparseInst does not answer with proposals" in error_of(net, tmp_path / "out")


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "1/0"])
def test_shards_that_are_none(rpn, tmp_path, shard, capsys):
    error_of(rpn, tmp_path, "--shard", shard)
    assert "is not of the form I/N" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written(rpn, tmp_path):
    (tmp_path / "file").write_text("")
    message = error_of(rpn, tmp_path / "file" / "out")
    assert message.startswith("error: ")
    assert str(tmp_path / "file") in message


def test_a_full_disk(rpn, tmp_path):
    command = [sys.executable, str(TOOL), *arguments(rpn, tmp_path)]
    # What is written beyond the limit fails, as on a full disk.
    shell = f"ulimit -f 1; exec {' '.join(map(repr, command))}"
    done = subprocess.run(
        ["bash", "-c", shell], env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "error: [Errno 27] File too large; what was finished stays" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("*.pkl"))
    assert not list(tmp_path.rglob("*.part"))
    run(rpn, tmp_path)
    assert len(list(read_proposal_file(tmp_path / "shapes_val_boxes.pkl"))) == NUM


def test_parts_of_two_machines(rpn, tmp_path, capsys):
    for index in (1, 2):
        run(rpn, tmp_path / str(index), "--shard", f"{index}/2")
    together = tmp_path / "together" / "shapes_val_parts"
    for index in (1, 2):
        shutil.copytree(tmp_path / str(index) / "shapes_val_parts", together, dirs_exist_ok=True)
    merge(["merge", str(together.parent)])
    assert f"of {NUM} images" in capsys.readouterr().out
    assert json.loads(next(together.glob("*.part")).read_text())["settings"]["images"] == NUM
    assert len(list(read_proposal_file(together.parent / "shapes_val_boxes.pkl"))) == NUM
