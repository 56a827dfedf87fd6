"""Does a file fit a data set? What does not fit is named, with image ids and advice."""

import logging
import pickle

import numpy as np
import pytest
from detectron2.structures import BoxMode

from instseg_d2.data import proposal_checks
from instseg_d2.data.image_proposals import ImageProposals
from instseg_d2.data.proposal_checks import check_precomputed_proposals, check_proposals
from instseg_d2.errors import DataError
from tests.proposal_samples import HEIGHT, WIDTH, empty, records, sample, write

IDS = [1, 2, 3, 4, 5, 6, 7]


def message_of(path, dicts):
    with pytest.raises(DataError) as error:
        check_proposals(path, dicts)
    assert str(path) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("suffix", ["pkl", "json"])
def test_a_file_that_fits(tmp_path, suffix):
    masks = suffix == "json"
    path = write(tmp_path / f"a.{suffix}", [sample(i, i, masks=masks) for i in IDS])
    report = check_proposals(path, records(*IDS))
    assert (report.images, report.proposals, report.most) == (7, 28, 7)
    assert report.has_masks == masks
    assert report.notes() == []


def test_ids_are_compared_as_detectron2_does(tmp_path):
    path = write(tmp_path / "a.pkl", [sample(str(i)) for i in IDS])
    assert check_proposals(path, records(*IDS)).images == 7
    path = write(tmp_path / "a.pkl", [sample(1), sample("1")])
    assert "image id '1' occurs more than once" in message_of(path, records(1))


def test_images_without_an_entry(tmp_path):
    path = write(tmp_path / "a.pkl", [sample(i) for i in IDS[:2]])
    message = message_of(path, records(*IDS))
    assert (
        "no entry for 5 of the 7 images of the data set, for example image ids 3, 4, 5, .."
        in message
    )
    assert "tools/make_proposals.py" in message
    path = write(tmp_path / "a.pkl", [sample(i) for i in [1, 2, 98, 99]])
    assert "It has 2 ids of other images" in message_of(path, records(*IDS))


def test_images_that_a_json_file_cannot_have(tmp_path):
    path = write(tmp_path / "a.json", [sample(i) for i in IDS[:5]] + [empty(6)])
    report = check_proposals(path, records(*IDS))
    assert report.absent == [6, 7]
    [note] = report.notes()
    assert note.startswith(
        "images of the data set that do not occur: 2, for example image ids 6, 7"
    )


@pytest.mark.parametrize("suffix", ["pkl", "json"])
def test_a_file_of_another_data_set(tmp_path, suffix):
    path = write(tmp_path / f"a.{suffix}", [sample(i) for i in (91, 92)])
    message = message_of(path, records(*IDS))
    assert "of another data set: none of its 2 image ids (91, 92) is one of the 7" in message
    path = write(tmp_path / f"a.{suffix}", [sample(i) for i in (1, 2, 91)])
    assert check_proposals(path, records(1, 2)).notes() == [
        "image ids that are not of the data set, and are ignored: 1, for example 91; is the file "
        "of another data set?"
    ]


@pytest.mark.parametrize("suffix", ["pkl", "json"])
def test_no_proposals_at_all(tmp_path, suffix):
    path = write(tmp_path / f"a.{suffix}", [empty(i) for i in IDS])
    assert "has no proposals for any image" in message_of(path, records(*IDS))


def test_boxes_without_area_and_images_without_boxes_are_noted(tmp_path):
    flat = ImageProposals(1, np.array([[3, 3, 3, 9], [0, 0, 9, 9]], np.float32), np.array([1, 0.0]))
    path = write(tmp_path / "a.pkl", [flat, empty(2)])
    report = check_proposals(path, records(1, 2))
    assert (report.flat, report.empty) == (1, 1)
    assert report.notes() == [
        "images without proposals: 1",
        "boxes without area, which are ignored: 1",
    ]


def save(path, boxes, mode):
    boxes = np.asarray(boxes, np.float32)
    content = {
        "ids": [1],
        "boxes": [boxes],
        "objectness_logits": [np.zeros(len(boxes), np.float32)],
        "bbox_mode": int(mode),
    }
    path.write_bytes(pickle.dumps(content))
    return path


def test_xywh_that_is_declared_as_xyxy(tmp_path):
    corners = sample(1, 100).boxes
    sizes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)
    message = message_of(save(tmp_path / "a.pkl", sizes, BoxMode.XYXY_ABS), records(1))
    assert "boxes end before they begin" in message
    assert "perhaps they are (x, y, width, height)" in message
    report = check_proposals(save(tmp_path / "a.pkl", sizes, BoxMode.XYWH_ABS), records(1))
    assert report.notes() == ["the boxes are (x, y, width, height), by the file's bbox_mode"]


def test_xyxy_that_is_declared_as_xywh(tmp_path):
    boxes = sample(1, 100).boxes
    message = message_of(save(tmp_path / "a.pkl", boxes, BoxMode.XYWH_ABS), records(1))
    assert f"boxes reach far beyond the image of {WIDTH} x {HEIGHT} pixels" in message
    assert "declared as XYWH" in message


def test_boxes_of_a_larger_image(tmp_path):
    path = write(tmp_path / "a.pkl", [sample(1, 100, size=(HEIGHT * 4, WIDTH * 4))])
    assert "of another image or another size of it" in message_of(path, records(1))
    # Sizes that are not known cannot be compared.
    assert check_proposals(path, [{"image_id": 1, "file_name": "a.png"}]).images == 1


def test_few_boxes_far_beyond_are_noted(tmp_path):
    image = sample(1, 100)
    image.boxes[0] = [-100, 0, 10, 10]
    report = check_proposals(write(tmp_path / "a.pkl", [image]), records(1))
    assert report.notes() == ["boxes that reach far beyond their image, and are clipped: 1"]


def test_masks_of_another_size(tmp_path):
    path = write(tmp_path / "a.json", [sample(i, masks=True) for i in (1, 2)])
    dicts = records(1) + records(2, size=(WIDTH, HEIGHT))
    assert (
        f"image id 2: its masks are for an image of (height, width) = ({HEIGHT}, {WIDTH}), but it "
        f"is ({WIDTH}, {HEIGHT})"
    ) in message_of(path, dicts)


def test_faults_are_counted_and_the_first_are_shown(tmp_path):
    images = [sample(i) for i in range(20)]
    for proposals in images[::2]:
        proposals.boxes[1, 2] = np.nan
    path = write(tmp_path / "a.pkl", images)
    message = message_of(path, records(*range(20)))
    assert "images whose proposals cannot be used: 10" in message
    assert "image id 0: box 1 is infinite or not a number" in message
    assert "and 5 more" in message


# -------------------------------------------------------------------- before Detectron2 loads


def precomputed_message(path, dicts):
    with pytest.raises(DataError) as error:
        check_precomputed_proposals("my_data", dicts, str(path))
    assert "data set 'my_data': its proposal file" in str(error.value)
    return str(error.value)


def test_precomputed_proposals_that_fit(tmp_path, caplog):
    path = write(tmp_path / "a.pkl", [sample(i) for i in IDS])
    with caplog.at_level(logging.WARNING, proposal_checks.__name__):
        check_precomputed_proposals("my_data", records(*IDS), path)
        assert not caplog.records
        check_precomputed_proposals("my_data", records(*IDS[1:]), path)
    assert "not of the data set, and are ignored: 1" in caplog.text


def test_precomputed_proposals_that_do_not(tmp_path):
    dicts = records(*IDS)
    absent = precomputed_message(tmp_path / "a.pkl", dicts)
    assert "does not exist" in absent
    assert "DATASETS.PROPOSAL_FILES_TRAIN" in absent
    path = write(tmp_path / "a.pkl", [sample(1)])
    assert "no entry for 6 of the 7 images" in precomputed_message(path, dicts)
    path = write(tmp_path / "a.json", [sample(i) for i in IDS])
    assert f"convert {path} {tmp_path}/a.pkl" in precomputed_message(path, dicts)
    (tmp_path / "a.pkl").write_bytes(b"\x80\x03damaged")
    assert "damaged" in precomputed_message(tmp_path / "a.pkl", dicts)


def test_a_pickle_with_code_is_refused_before_detectron2_runs_it(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("run",))

    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"ids": [1], "boxes": Evil()}))
    assert "it holds 'builtins.print'" in precomputed_message(tmp_path / "a.pkl", records(1))
