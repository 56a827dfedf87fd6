"""Converting between the formats, joining published chunks, and random boxes."""

import json

import numpy as np
import pytest

from instseg_d2.data.proposal_checks import check_proposals
from instseg_d2.data.proposal_convert import Conversion, Converted, convert_files
from instseg_d2.data.proposal_files import read_proposal_file
from instseg_d2.data.proposal_random import random_proposals
from instseg_d2.data.rle_batch import rles_problem
from instseg_d2.errors import DataError
from tests.proposal_samples import assert_same, records, sample, write

IDS = (3, 1, 2)


@pytest.fixture
def chunks(tmp_path):
    """Two files of masks, as proposals are published."""
    images = [sample(i, 10, masks=True) for i in IDS]
    return [
        write(tmp_path / "chunk_0.json", images[:2]),
        write(tmp_path / "chunk_1.json", images[2:]),
    ]


def converted(sources, dest, **how):
    done = convert_files(sources, str(dest), Conversion(**how))
    return done, list(read_proposal_file(dest))


def test_chunks_become_one_file_of_masks(tmp_path, chunks):
    done, images = converted(chunks, tmp_path / "all.json")
    assert done == Converted(images=3, proposals=30)
    assert_same(images, [sample(i, 10, masks=True) for i in IDS], score_tolerance=1e-9)


def test_chunks_become_boxes_with_logits(tmp_path, chunks):
    done, images = converted(chunks, tmp_path / "all.pkl", best=4)
    assert done == Converted(images=3, proposals=12)
    for proposals, i in zip(images, IDS, strict=True):
        expected = sample(i, 10, masks=True).best(4)
        assert proposals.rles is None
        np.testing.assert_array_equal(proposals.boxes, expected.boxes)
        np.testing.assert_allclose(proposals.logits, expected.logits, rtol=1e-6)


def test_boxes_of_masks_alone(tmp_path, chunks):
    entries = json.loads((tmp_path / "chunk_1.json").read_text())
    for entry in entries:
        del entry["bbox"]
    (tmp_path / "chunk_1.json").write_text(json.dumps(entries))
    _, images = converted(chunks, tmp_path / "all.pkl")
    np.testing.assert_array_equal(images[2].boxes, sample(2, 10, masks=True).boxes)


def test_there_and_back(tmp_path):
    images = [sample(i) for i in IDS]
    source = write(tmp_path / "a.pkl", images)
    converted([source], tmp_path / "b.json")
    _, back = converted([str(tmp_path / "b.json")], tmp_path / "c.pkl")
    assert_same(back, images, score_tolerance=1e-6)


def test_scores_can_stay_as_they_are(tmp_path):
    source = write(tmp_path / "a.pkl", [sample(1)])
    _, [proposals] = converted([source], tmp_path / "b.json", raw_scores=True)
    np.testing.assert_array_equal(proposals.scores, sample(1).scores.astype(np.float32))
    with pytest.raises(DataError, match="--raw-scores"):
        converted([str(tmp_path / "b.json")], tmp_path / "c.pkl")
    _, [proposals] = converted([str(tmp_path / "b.json")], tmp_path / "c.pkl", raw_scores=True)
    np.testing.assert_array_equal(proposals.scores, sample(1).scores.astype(np.float32))


def test_images_without_proposals_get_an_entry_on_demand(tmp_path, chunks):
    done, images = converted(chunks, tmp_path / "all.pkl", empty_for=[1, 2, 3, 4, 5])
    assert done.emptied == 2
    assert [p.image_id for p in images] == [3, 1, 2, 4, 5]
    assert check_proposals(tmp_path / "all.pkl", records(1, 2, 3, 4, 5)).empty == 2


def test_an_image_comes_once(tmp_path, chunks):
    with pytest.raises(DataError, match=r"image id 3 is twice in .*chunk_0"):
        converted([chunks[0], chunks[0]], tmp_path / "all.pkl")
    other = write(tmp_path / "other.pkl", [sample(1)])
    with pytest.raises(DataError, match=r"image id 1 is both in .*chunk_0.json and in .*other.pkl"):
        converted([*chunks, other], tmp_path / "all.pkl")
    assert not (tmp_path / "all.pkl").exists()


def test_a_damaged_chunk_leaves_nothing(tmp_path, chunks):
    content = (tmp_path / "chunk_1.json").read_text()
    (tmp_path / "chunk_1.json").write_text(content[:-20])
    with pytest.raises(DataError, match=r"chunk_1\.json cannot be read"):
        converted(chunks, tmp_path / "all.json")
    assert {path.name for path in tmp_path.iterdir()} == {"chunk_0.json", "chunk_1.json"}


# -------------------------------------------------------------------------------- random boxes


@pytest.mark.parametrize("size", [(48, 640), (5, 1), (3000, 4000)])
@pytest.mark.parametrize("masks", [True, False])
def test_random_boxes_are_inside_the_image(size, masks):
    proposals = random_proposals("a", size, 300, np.random.default_rng(0), with_masks=masks)
    height, width = size
    assert (proposals.boxes >= 0).all()
    assert (proposals.boxes <= [width, height, width, height]).all()
    assert (proposals.boxes[:, 2:] > proposals.boxes[:, :2]).all()
    assert (np.diff(proposals.scores) <= 0).all()
    assert (proposals.rles is None) != masks
    if masks:
        assert rles_problem(proposals.rles, size) is None


def test_sizes_of_random_boxes_are_uniform_in_their_logarithm():
    boxes = random_proposals(1, (512, 512), 4000, np.random.default_rng(0)).boxes
    octaves = np.log2(boxes[:, 2:] - boxes[:, :2])
    counts = np.histogram(octaves, bins=np.arange(3, 10))[0]
    assert octaves.min() >= 3 - 1e-5
    np.testing.assert_allclose(counts, 8000 / 6, rtol=0.1)
