"""The program's commands, as a user gives them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog

from instseg_d2.config import load_config
from instseg_d2.data.config_datasets import register_config_datasets
from instseg_d2.data.proposal_checks import check_proposals
from instseg_d2.data.proposal_files import read_proposal_file
from tests.coco_sample import coco
from tests.proposal_samples import assert_same, sample, write
from tools.proposal_files import main

TOOL = Path(__file__).resolve().parents[2] / "tools" / "proposal_files.py"
SHAPES = ["DATASETS.SHAPES.NUM_TRAIN", "1", "DATASETS.SHAPES.NUM_VAL", "5",
          "DATASETS.SHAPES.IMAGE_SIZE", "64"]  # fmt: skip


@pytest.fixture
def dataset():
    register_config_datasets(load_config("", SHAPES))
    return DatasetCatalog.get("shapes_val")


@pytest.fixture
def annotations(tmp_path):
    """A COCO file with the images 11 and 12, of 12 x 10 pixels."""
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(coco()))
    return str(path)


def run(*args):
    main([str(arg) for arg in args])


def error_of(*args):
    with pytest.raises(SystemExit) as error:
        run(*args)
    assert error.value.code not in (None, 0)
    return str(error.value.code)


# ----------------------------------------------------------------------------- random and check


@pytest.mark.parametrize("options", [[".pkl"], [".json"], [".json", "--masks"]])
def test_random_boxes_fit_the_data_set(dataset, tmp_path, options, capsys):
    suffix, *options = options
    out = tmp_path / f"a{suffix}"
    run("random", out, "--dataset", "shapes_val", "--num", 30, *options, *SHAPES)
    assert "30 random boxes for each of 5 images" in capsys.readouterr().out
    run("check", out, "--dataset", "shapes_val", *SHAPES)
    kind = "masks" if options else "boxes"
    assert f"{out} fits: 150 {kind} of 5 images, at most 30 of one" in capsys.readouterr().out
    assert check_proposals(out, dataset).notes() == []


def test_random_boxes_depend_on_the_seed_alone(tmp_path):
    names = {"a": 0, "b": 0, "c": 1}
    for name, seed in names.items():
        out = tmp_path / f"{name}.pkl"
        run("random", out, "--dataset", "shapes_val", "--num", 9, "--seed", seed, *SHAPES)
    contents = {name: (tmp_path / f"{name}.pkl").read_bytes() for name in names}
    assert contents["a"] == contents["b"] != contents["c"]
    first, second, *_ = read_proposal_file(tmp_path / "a.pkl")
    assert not np.array_equal(first.scores, second.scores)


def test_data_that_is_not_registered_is_named_by_its_annotations(tmp_path, annotations, capsys):
    run("random", tmp_path / "a.pkl", "--annotations", annotations, "--num", 4)
    run("check", tmp_path / "a.pkl", "--annotations", annotations)
    assert "8 boxes of 2 images" in capsys.readouterr().out
    assert [p.image_id for p in read_proposal_file(tmp_path / "a.pkl")] == [11, 12]


def test_check_says_what_does_not_fit(tmp_path, annotations, capsys):
    message = error_of("check", write(tmp_path / "a.pkl", [sample(11, size=(10, 12))]),
                       "--annotations", annotations)  # fmt: skip
    assert message.startswith("error: ")
    assert "no entry for 1 of the 2 images of the data set, for example image ids 12" in message
    run("check", write(tmp_path / "a.json", [sample(11, size=(10, 12))]),
        "--annotations", annotations)  # fmt: skip
    assert "note: images of the data set that do not occur: 1" in capsys.readouterr().out
    message = error_of("check", tmp_path / "a.pkl", "--dataset", "shapes_val", *SHAPES)
    assert "is of another data set: none of its 1 image ids (11)" in message
    assert "not registered" in error_of("check", tmp_path / "a.pkl", "--dataset", "shapes_vla")


# ------------------------------------------------------------------------------------- convert


def test_published_chunks(tmp_path, annotations, capsys):
    images = [sample(i, 20, masks=True, size=(10, 12)) for i in (12, 11)]
    chunks = [write(tmp_path / f"{p.image_id}.json", [p]) for p in images]
    run("convert", *chunks, tmp_path / "a.pkl")
    assert f"40 proposals of 2 images: {tmp_path}/a.pkl" in capsys.readouterr().out
    run("check", tmp_path / "a.pkl", "--annotations", annotations)
    run("convert", *chunks, tmp_path / "a.json")
    assert_same(read_proposal_file(tmp_path / "a.json"), images, score_tolerance=1e-9)
    run("convert", "--best", 3, *chunks, tmp_path / "b.json")
    assert_same(
        read_proposal_file(tmp_path / "b.json"), [p.best(3) for p in images], score_tolerance=1e-9
    )


def test_options_of_convert(tmp_path, annotations, capsys):
    source = write(tmp_path / "a.json", [sample(11, size=(10, 12))])
    run("convert", source, tmp_path / "a.pkl", "--empty-for", annotations)
    assert "note: images without proposals, which got an empty entry: 1" in capsys.readouterr().out
    run("check", tmp_path / "a.pkl", "--annotations", annotations)
    run("convert", tmp_path / "a.pkl", tmp_path / "raw.json", "--raw-scores")
    entries = json.loads((tmp_path / "raw.json").read_text())
    assert min(entry["score"] for entry in entries) < 0
    assert "--raw-scores" in error_of("convert", tmp_path / "raw.json", tmp_path / "b.pkl")

    entries = json.loads(Path(source).read_text())
    apart = [*entries[:2], {**entries[0], "image_id": 12}, *entries[2:]]
    (tmp_path / "apart.json").write_text(json.dumps(apart))
    assert "--gather" in error_of("convert", tmp_path / "apart.json", tmp_path / "b.pkl")
    run("convert", "--gather", tmp_path / "apart.json", tmp_path / "b.pkl")
    assert [len(p) for p in read_proposal_file(tmp_path / "b.pkl")] == [5, 1]


# ------------------------------------------------------------------------------------ mistakes


def test_files_are_not_lost(tmp_path, annotations):
    source = write(tmp_path / "a.json", [sample(11)])
    for command in (
        ["convert", source, tmp_path / "b.pkl"],
        ["random", tmp_path / "b.pkl", "--annotations", annotations],
    ):
        (tmp_path / "b.pkl").write_text("precious")
        assert "b.pkl exists; give another name, or --overwrite" in error_of(*command)
        assert (tmp_path / "b.pkl").read_text() == "precious"
        run(*command, "--overwrite")
        assert list(read_proposal_file(tmp_path / "b.pkl"))


def test_a_truncated_source(tmp_path):
    source = Path(write(tmp_path / "a.json", [sample(1), sample(2)]))
    source.write_bytes(source.read_bytes()[:-100])
    message = error_of("convert", source, tmp_path / "b.pkl")
    assert f"{source} cannot be read as a JSON list of proposals" in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["convert", "{a}", "b.npz"], "written as .pkl (boxes) or .json"),
        (["convert", "{a}", "b.json", "--empty-for", "{coco}"], "only a .pkl can have entries"),
        (
            ["convert", "{a}", "nowhere/b.pkl"],
            "nowhere/b.pkl cannot be written: its folder does not exist",
        ),
        (["convert", "{a}", "{a}/b.pkl"], "b.pkl cannot be, because a part of this path is a file"),
        (["convert", "absent.json", "b.pkl"], "absent.json cannot be read: No such file"),
        (["convert", "{coco}", "b.pkl"], "a JSON object, perhaps COCO annotations"),
        (["random", "b.pkl", "--annotations", "{coco}", "--masks"], "only a .json can have masks"),
        (["random", "b.pkl", "--annotations", "{a}"], "not a COCO annotation file"),
        (["merge", "."], ". has no folder NAME_parts"),
        (["check", "{a}", "--dataset", "shapes_val", "DATASETS.SHAPES.NUM", "3"], "unknown config"),
    ],
)
def test_errors_in_one_line(tmp_path, annotations, monkeypatch, args, said):
    monkeypatch.chdir(tmp_path)
    source = write(tmp_path / "a.json", [sample(1)])
    before = sorted(tmp_path.iterdir())
    message = error_of(*(arg.format(a=source, coco=annotations) for arg in args))
    assert message.startswith("error: ")
    assert said in message
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "args",
    [
        ["random", "b.pkl", "--dataset", "shapes_val", "--num", "0"],
        ["random", "b.pkl", "--dataset", "shapes_val", "--seed", "-1"],
        ["random", "b.pkl"],
        ["random", "b.pkl", "--dataset", "shapes_val", "--nmu", "3"],
        ["merge", "a", "b"],
        ["convert", "a.json"],
        [],
    ],
)
def test_wrong_usage(args, capsys):
    with pytest.raises(SystemExit) as error:
        run(*args)
    assert error.value.code == 2
    assert "usage: " in capsys.readouterr().err


def test_the_program_itself(tmp_path):
    source = write(tmp_path / "a.json", [sample(1)])
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(TOOL), "convert", source, str(tmp_path / "b.pkl")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"5 proposals of 1 images: {tmp_path}/b.pkl\n")
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert again.stderr.startswith("error: ")
    assert "Traceback" not in again.stderr
