"""Making proposals part by part: what is kept, what is done again, and how it becomes one file."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.structures import Boxes, Instances
from PIL import Image
from torch import nn

from instseg_d2.data import proposal_parts
from instseg_d2.data.proposal_files import read_proposal_file
from instseg_d2.data.proposal_making import Made, Making, make_parts
from instseg_d2.data.proposal_merge import merge_parts
from instseg_d2.data.proposal_parts import PartFolder, gaps
from instseg_d2.data.proposal_settings import proposal_settings
from instseg_d2.data.whole_images import WholeImageMapper
from instseg_d2.errors import ConfigError, DataError
from instseg_d2.rle_masks import RLEMasks
from instseg_d2.run_settings import Settings
from tests.proposal_samples import assert_same, sample

COUNT = 11
SETTINGS = Settings({"images": COUNT, "--masks": True, "config": {"MODEL.A": "1"}})


class Model(nn.Module):
    """Gives each image proposals that its id decides; notes which it was asked for."""

    def __init__(self, *, masks=True, answer=None):
        super().__init__()
        self.masks = masks
        self.answer = answer
        self.asked = []

    def forward(self, batched_inputs):
        [inputs] = batched_inputs
        image_id = inputs["image_id"]
        self.asked.append(image_id)
        if self.answer is not None:
            return self.answer(inputs)
        assert inputs["image"].dtype == torch.uint8
        return [{"proposals": instances_of(image_id, masks=self.masks)}]


def instances_of(image_id, *, masks=True):
    proposals = sample(image_id, image_id % 4, masks=True)  # some have none
    size = (30, 40)
    instances = Instances(size)
    instances.proposal_boxes = Boxes(torch.from_numpy(proposals.boxes))
    instances.objectness_logits = torch.from_numpy(proposals.scores).float()
    if masks:
        rles = [{**rle, "counts": rle["counts"].encode()} for rle in proposals.rles]
        instances.pred_masks = RLEMasks(rles, size)
    return instances


@pytest.fixture
def dataset(tmp_path):
    """Images with ids that are not in order, in a data set's order."""
    (tmp_path / "images").mkdir()
    found = []
    for image_id in [50, *range(20, 20 + COUNT - 1)]:
        path = tmp_path / "images" / f"{image_id}.png"
        Image.new("RGB", (40, 30)).save(path)
        found.append({"image_id": image_id, "file_name": str(path), "height": 30, "width": 40,
                      "annotations": []})  # fmt: skip
    return found


@pytest.fixture
def folder(tmp_path):
    return PartFolder.of_dataset(tmp_path / "out", "my/data")


def make(dataset, folder, model=None, settings=SETTINGS, **how):
    how = {"part_size": 3, **how}
    model = Model() if model is None else model
    return make_parts(model, dataset, WholeImageMapper(), folder, settings, Making(**how))


def spans(folder):
    return [(part.start, part.stop) for part in folder.parts()]


def contents(merged):
    return [path.read_bytes() for path in merged.files]


# ------------------------------------------------------------------------------------ the whole


@pytest.mark.parametrize("num_workers", [0, 2])
def test_everything_in_the_order_of_the_data_set(dataset, folder, num_workers):
    made = make(dataset, folder, num_workers=num_workers)
    assert made == Made(images=COUNT)
    assert spans(folder) == [(0, 3), (3, 6), (6, 9), (9, 11)]
    merged = merge_parts(folder)
    assert [path.name for path in merged.files] == ["my_data_boxes.pkl", "my_data_masks.json"]
    boxes, masks = (list(read_proposal_file(path)) for path in merged.files)
    ids = [record["image_id"] for record in dataset]
    expected = [sample(i, i % 4, masks=True) for i in ids]
    assert [p.image_id for p in boxes] == ids
    for one, other in zip(boxes, expected, strict=True):
        np.testing.assert_array_equal(one.boxes, other.boxes)
        np.testing.assert_array_equal(one.scores, other.scores.astype(np.float32))
    assert_same(masks, [p for p in expected if len(p)], score_tolerance=1e-6)
    assert (merged.images, merged.proposals, merged.most) == (COUNT, sum(map(len, expected)), 3)
    json.loads(folder.masks_file.read_text())


def test_parts_are_files_of_both_formats(dataset, folder):
    make(dataset, folder)
    for part in folder.parts():
        boxes = list(read_proposal_file(folder.file(part, ".pkl")))
        masks = list(read_proposal_file(folder.file(part, ".json")))
        assert len(boxes) == part.stop - part.start
        assert sum(map(len, masks)) == sum(map(len, boxes)) == part.proposals


def test_no_masks(dataset, folder):
    for model, masks in ((Model(masks=False), None), (Model(), False)):
        make(dataset, folder, model, masks=masks, overwrite=True)
        assert [path.name for path in merge_parts(folder).files] == ["my_data_boxes.pkl"]
        assert not folder.masks_file.exists()
    with pytest.raises(ConfigError, match="--masks was given, but"):
        make(dataset, folder, Model(masks=False), masks=True, overwrite=True)


def test_only_the_best_are_kept(dataset, folder):
    make(dataset, folder, best=2)
    merged = merge_parts(folder)
    assert merged.most == 2
    for path in merged.files:
        assert max(map(len, read_proposal_file(path))) == 2


# ----------------------------------------------------------------------------- shards and limits


@pytest.mark.parametrize("shards", [1, 2, 3, 11, 20])
def test_shards_share_the_images(dataset, folder, shards):
    asked = []
    for index in reversed(range(1, shards + 1)):
        model = Model()
        made = make(dataset, folder, model, shard=(index, shards))
        assert made.images == len(model.asked)
        assert abs(made.images - COUNT / shards) < 1
        asked += model.asked
    assert sorted(asked) == sorted(record["image_id"] for record in dataset)
    contents_of_shards = contents(merge_parts(folder))
    make(dataset, folder, overwrite=True)
    assert contents(merge_parts(folder)) == contents_of_shards


def test_another_number_of_shards_goes_on_with_what_there_is(dataset, folder):
    make(dataset, folder, shard=(2, 3))
    model = Model()
    made = make(dataset, folder, model)
    assert (made.before, made.images) == (4, 7)
    assert gaps(folder.parts(), 0, COUNT) == []
    assert merge_parts(folder).missing == 0


def test_a_limit_can_be_raised(dataset, folder):
    assert make(dataset, folder, limit=4).images == 4
    with pytest.raises(DataError, match=r"7 of 11 images are not done yet: 4 to 10, counted"):
        merge_parts(folder)
    merged = merge_parts(folder, allow_missing=True)
    assert (merged.images, merged.missing) == (4, 7)
    made = make(dataset, folder)
    assert (made.before, made.images) == (4, 7)
    assert not folder.boxes_file.exists()  # until it is merged anew
    assert merge_parts(folder).missing == 0


def test_gaps():
    def part(start, stop):
        return proposal_parts.Part(start, stop, {}, False, 0, 0, {})

    assert gaps([], 2, 5) == [range(2, 5)]
    assert gaps([part(0, 9)], 2, 5) == []
    assert gaps([part(0, 3), part(4, 5), part(7, 9)], 2, 8) == [range(3, 4), range(5, 7)]
    assert gaps([part(6, 9)], 2, 5) == [range(2, 5)]
    assert gaps([part(0, 2), part(1, 3)], 0, 4) == [range(3, 4)]
    assert gaps([part(0, 9)], 5, 5) == []


# -------------------------------------------------------------------------- stopping and going on


def test_what_was_done_before_a_stop_is_kept(dataset, folder):
    def stop_at(inputs):
        if inputs["image_id"] == 23:
            raise KeyboardInterrupt
        return [{"proposals": instances_of(inputs["image_id"])}]

    with pytest.raises(KeyboardInterrupt):
        make(dataset, folder, Model(answer=stop_at))
    assert spans(folder) == [(0, 3), (3, 4)]
    model = Model()
    assert make(dataset, folder, model) == Made(images=7, before=4)
    assert model.asked == [23, 24, 25, 26, 27, 28, 29]
    interrupted = contents(merge_parts(folder))
    make(dataset, folder, overwrite=True)
    assert contents(merge_parts(folder)) == interrupted


def test_all_is_done(dataset, folder):
    make(dataset, folder)
    merged = contents(merge_parts(folder))
    model = Model()
    assert make(dataset, folder, model) == Made(before=COUNT)
    assert model.asked == []
    assert contents(merge_parts(folder)) == merged


@pytest.mark.parametrize("lost", [".pkl", ".json", ".part"])
@pytest.mark.parametrize("how", ["removed", "cut off"])
def test_a_part_that_is_not_whole_is_made_again(dataset, folder, lost, how):
    make(dataset, folder)
    whole = contents(merge_parts(folder))
    file = folder.file(folder.parts()[1], lost)
    if how == "removed":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-5])
    assert spans(folder) == [(0, 3), (6, 9), (9, 11)]
    with pytest.raises(DataError, match="3 of 11 images are not done yet: 3 to 5"):
        merge_parts(folder)
    model = Model()
    make(dataset, folder, model)
    assert model.asked == [22, 23, 24]
    assert contents(merge_parts(folder)) == whole


def test_half_written_files_are_removed_when_they_are_old(dataset, folder):
    folder.path.mkdir(parents=True)
    output = folder.path.parent
    old, new = 2 * proposal_parts.STALE_SECONDS, 10
    ages = {
        folder.path / "0-2.pkl.0123.tmp": old,
        folder.path / "2-4.pkl.0123.tmp": new,
        output / "my_data_masks.json.0123.tmp": old,
        output / "my_data_boxes.pkl.0123.tmp": new,
        output / "other_boxes.pkl.0123.tmp": old,  # of another data set
    }
    for path, age in ages.items():
        path.write_text("half")
        os.utime(path, (time.time() - age,) * 2)
    make(dataset, folder)
    assert [path.name for path in ages if path.exists()] == [
        "2-4.pkl.0123.tmp",
        "my_data_boxes.pkl.0123.tmp",
        "other_boxes.pkl.0123.tmp",
    ]


# ------------------------------------------------------------------------------------- settings


def test_other_settings_are_refused_and_named(dataset, folder):
    make(dataset, folder, limit=4)
    other = Settings({"images": COUNT, "--masks": False, "config": {"MODEL.A": "2"}})
    with pytest.raises(DataError) as error:
        make(dataset, folder, settings=other)
    for line in ("--masks: True and False", "MODEL.A: 1 and 2", "--overwrite"):
        assert line in str(error.value)
    assert make(dataset, folder, settings=other, overwrite=True).images == COUNT
    assert {part.settings["--masks"] for part in folder.parts()} == {False}


def test_overwriting_leaves_what_other_shards_make_now(dataset, folder):
    make(dataset, folder)
    other = Settings({**SETTINGS.content, "--masks": False})
    for index in (1, 2):
        assert make(dataset, folder, settings=other, shard=(index, 2), overwrite=True).before == 0
    assert gaps(folder.parts(), 0, COUNT) == []
    assert merge_parts(folder).missing == 0


def test_parts_of_different_settings_are_not_merged(dataset, folder):
    make(dataset, folder, shard=(1, 2))
    elsewhere = PartFolder(folder.path.with_name("other_parts"))
    other = Settings({**SETTINGS.content, "digest of the weights": "abc"})
    make(dataset, elsewhere, settings=other, shard=(2, 2))
    for file in elsewhere.path.iterdir():
        file.rename(folder.path / file.name)
    with pytest.raises(DataError, match="digest of the weights: nothing and abc"):
        merge_parts(folder)


def test_parts_that_overlap(dataset, folder):
    make(dataset, folder, limit=6)
    folder.write(1, [sample(20, masks=True)], SETTINGS)  # within another part: not needed
    assert [p.image_id for p in read_proposal_file(merge_parts(folder, allow_missing=True).files[0])
            ] == [50, 20, 21, 22, 23, 24]  # fmt: skip
    folder.write(5, [sample(i, masks=True) for i in (24, 25)], SETTINGS)
    with pytest.raises(DataError, match="000000003-000000006 and 000000005-000000007 overlap"):
        merge_parts(folder)


def test_nothing_to_merge(folder):
    with pytest.raises(DataError, match="no finished parts"):
        merge_parts(folder)


def test_settings_are_what_proposals_depend_on(dataset):
    cfg = get_cfg()
    cfg.DATASETS.SHAPES = cfg.MODEL.RPN.clone()
    cfg.MODEL.WEIGHTS = "x.pth"
    model = nn.Linear(2, 2)

    def settings(**changes):
        options = {"best": None, "masks": True, "ignored_keys": ("MODEL.RPN",), **changes}
        content = proposal_settings(cfg, model, "d", dataset, **options).content
        return Settings(json.loads(json.dumps(content)))  # as it is read from a part

    before = settings()
    cfg.OUTPUT_DIR, cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "x", "y", "z"
    cfg.MODEL.RPN.LOSS_WEIGHT = 9.0
    cfg.DATALOADER.NUM_WORKERS = 7
    dataset[0]["file_name"] = dataset[0]["file_name"].replace("/images/", "/elsewhere/")
    assert before.differences(settings()) == []
    assert before.differences(settings(best=5)) == ["--proposals-per-image: None and 5"]
    cfg.INPUT.MIN_SIZE_TEST = 3
    assert before.differences(settings()) == ["INPUT.MIN_SIZE_TEST: 800 and 3"]
    cfg.INPUT.MIN_SIZE_TEST = 800
    with torch.no_grad():
        model.bias[1] += 1e-6
    weights, name = before.differences(settings())
    assert weights == "MODEL.WEIGHTS: x.pth and z"
    assert name.startswith("digest of the weights: ")
    with torch.no_grad():
        model.bias[1] -= 1e-6
    dataset[3]["image_id"] = 99
    assert before.differences(settings())[0].startswith("digest of the images")


# --------------------------------------------------------------------------------- bad images


@pytest.fixture
def bad_image(dataset):
    path = Path(dataset[4]["file_name"])
    good = path.read_bytes()
    path.write_bytes(good[:30])
    return path, good


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_bad_image_stops_and_is_named(dataset, folder, bad_image, num_workers):
    with pytest.raises(DataError, match=rf"image {bad_image[0]} \(image id 23\) cannot be read"):
        make(dataset, folder, num_workers=num_workers)
    assert spans(folder) == [(0, 3), (3, 4)]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_bad_image_is_left_out_until_it_is_mended(dataset, folder, bad_image, num_workers):
    made = make(dataset, folder, skip_errors=True, num_workers=num_workers)
    assert made.images == COUNT - 1
    [failure] = made.failures
    assert "(image id 23) cannot be read" in failure
    assert spans(folder) == [(0, 3), (3, 4), (5, 8), (8, 11)]
    with pytest.raises(DataError, match="1 of 11 images are not done yet: 4, counted from 0"):
        merge_parts(folder)
    assert merge_parts(folder, allow_missing=True).images == COUNT - 1

    bad_image[0].write_bytes(bad_image[1])
    model = Model()
    make(dataset, folder, model)
    assert model.asked == [23]
    mended = contents(merge_parts(folder))
    make(dataset, folder, overwrite=True)
    assert contents(merge_parts(folder)) == mended


def test_answers_that_cannot_be_used(dataset, folder):
    def with_nan(inputs):
        instances = instances_of(inputs["image_id"])
        instances.objectness_logits[:1] = torch.nan
        return [{"proposals": instances}]

    with pytest.raises(DataError, match=r"\(image id 50\): .* score 0 is infinite or not"):
        make(dataset, folder, Model(answer=with_nan))
    made = make(dataset, folder, Model(answer=with_nan), skip_errors=True)
    assert made.images == 3  # those without proposals
    assert made.model_failures == len(made.failures) == COUNT - 3
    with pytest.raises(ConfigError, match="Model does not answer with proposals"):
        make(dataset, folder, Model(answer=lambda inputs: [{"instances": None}]))
    with pytest.raises(ConfigError, match="Model does not answer with proposals"):
        make(dataset, folder, Model(answer=lambda inputs: {"loss": 1}), skip_errors=True)


def test_too_little_memory_for_an_image(dataset, folder):
    def answer(inputs):
        if inputs["image_id"] == 22:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate\n9 GiB")
        return [{"proposals": instances_of(inputs["image_id"])}]

    made = make(dataset, folder, Model(answer=answer), skip_errors=True)
    assert made.images == COUNT - 1
    assert made.model_failures == 0
    assert "not enough memory for 40 x 30 pixels (CUDA out of memory." in made.failures[0]


def test_a_mistake_in_the_model_says_at_which_image(dataset, folder):
    def answer(inputs):
        raise ValueError("shapes")

    with pytest.raises(RuntimeError, match=r"the model failed on image .*50.png \(image id 50\)"):
        make(dataset, folder, Model(answer=answer), skip_errors=True)


def test_masks_for_some_images_only(dataset, folder):
    def answer(inputs):
        return [{"proposals": instances_of(inputs["image_id"], masks=inputs["image_id"] != 21)}]

    with pytest.raises(DataError, match="no masks for image id 21, but for others"):
        make(dataset, folder, Model(answer=answer))
