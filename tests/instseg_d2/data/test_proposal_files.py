"""Both formats: what is written is read, here and by those they are for; damage is named."""

import contextlib
import io
import json
import pickle
import tracemalloc

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data import transforms as T
from detectron2.data.build import load_proposals_into_dataset
from detectron2.data.detection_utils import transform_proposals
from detectron2.structures import BoxMode, Instances
from pycocotools.coco import COCO

from instseg_d2.data import proposal_json, proposal_pickle
from instseg_d2.data.image_proposals import (
    ImageProposals,
    logits_of,
    probabilities_of,
    proposals_of_instances,
)
from instseg_d2.data.json_stream import iter_json_list
from instseg_d2.data.proposal_files import proposal_writer, read_proposal_file
from instseg_d2.errors import ConfigError, DataError
from tests.proposal_samples import HEIGHT, WIDTH, assert_same, empty, records, sample, write

IDS = [7, "seven", 3]


def message_of(path, **options):
    with pytest.raises(DataError) as error:
        list(read_proposal_file(path, **options))
    assert str(path) in str(error.value)
    return str(error.value)


# ---------------------------------------------------------------------------------- round trips


def test_a_pickle_is_read_as_it_was_written(tmp_path):
    images = [sample(i) for i in IDS] + [empty(9)]
    path = write(tmp_path / "a.pkl", images)
    read = list(read_proposal_file(path))
    assert_same(read, images, score_tolerance=1e-6)
    assert [type(p.image_id) for p in read] == [int, str, int, int]
    assert {p.boxes.dtype for p in read} == {np.dtype(np.float32)}
    assert all(p.rles is None and p.are_logits for p in read)


@pytest.mark.parametrize("masks", [True, False])
def test_a_json_file_is_read_as_it_was_written(tmp_path, masks):
    images = [sample(i, masks=masks) for i in IDS]
    path = write(tmp_path / "a.json", [images[0], empty(9), *images[1:]])
    # The logits come back from probabilities; boxes with all their digits, masks as they were.
    assert_same(read_proposal_file(path), images, score_tolerance=1e-9)


def test_files_can_be_read_twice_and_are_told_by_content(tmp_path):
    for suffix in ("pkl", "json"):
        path = write(tmp_path / f"a.{suffix}", [sample(1)])
        renamed = tmp_path / f"{suffix}.txt"
        renamed.write_bytes((tmp_path / f"a.{suffix}").read_bytes())
        file = read_proposal_file(renamed)
        assert file.is_json == (suffix == "json")
        assert_same(file, read_proposal_file(path))
        assert_same(file, read_proposal_file(path))


@pytest.mark.parametrize("suffix", ["pkl", "json"])
def test_no_images(tmp_path, suffix):
    assert list(read_proposal_file(write(tmp_path / f"a.{suffix}", []))) == []


def test_the_best_are_first_whatever_the_order_in_the_file(tmp_path):
    scores = np.array([0.1, 0.9, 0.5, 0.9])
    boxes = np.array([[i, 0, 20, 20] for i in range(4)], np.float32)
    content = {"ids": [1], "boxes": [boxes], "objectness_logits": [scores], "bbox_mode": 0}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content))
    entries = [
        {"image_id": 1, "category_id": 1, "bbox": [*box[:2], *(box[2:] - box[:2])], "score": score}
        for box, score in zip(boxes.tolist(), scores.tolist(), strict=True)
        for box in [np.array(box)]
    ]
    (tmp_path / "a.json").write_text(json.dumps(entries))
    for name in ("a.pkl", "a.json"):
        [read] = read_proposal_file(tmp_path / name)
        assert read.scores.tolist() == [0.9, 0.9, 0.5, 0.1]
        assert read.boxes[:, 0].tolist() == [1, 3, 2, 0]
        assert read.best(2).boxes[:, 0].tolist() == [1, 3]
        assert len(read.best(None)) == len(read.best(99)) == 4


# ------------------------------------------------------------------------- those they are for


def test_detectron2_reads_the_pickle(tmp_path):
    images = [sample(i) for i in (7, 3)] + [empty(9)]
    path = write(tmp_path / "a.pkl", images)
    keys = pickle.loads((tmp_path / "a.pkl").read_bytes()).keys()
    assert keys == {"ids", "boxes", "objectness_logits", "bbox_mode"}
    dicts = load_proposals_into_dataset(records(9, 3, 7), path)
    for record, proposals in zip(dicts, reversed(images), strict=True):
        assert record["proposal_bbox_mode"] == BoxMode.XYXY_ABS
        assert record["proposal_boxes"].dtype == np.float32
        assert record["proposal_objectness_logits"].dtype == np.float32
        transform_proposals(record, (HEIGHT, WIDTH), T.TransformList([]), proposal_topk=100)
        np.testing.assert_allclose(
            record["proposals"].proposal_boxes.tensor.numpy(), proposals.boxes, atol=1e-5
        )
        np.testing.assert_array_equal(
            record["proposals"].objectness_logits.numpy(), proposals.logits.astype(np.float32)
        )


def test_pycocotools_reads_the_json(tmp_path):
    images = [sample(i, masks=True) for i in (7, 3)]
    path = write(tmp_path / "a.json", images)
    truth = COCO()
    truth.dataset = {
        "images": [{"id": i, "height": HEIGHT, "width": WIDTH} for i in (3, 7)],
        "categories": [{"id": 1, "name": "object"}],
        "annotations": [],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        results = truth.loadRes(path)
    for proposals in images:
        annotations = results.loadAnns(results.getAnnIds(imgIds=[proposals.image_id]))
        assert [a["score"] for a in annotations] == proposals.probabilities.tolist()
        masks = np.stack([results.annToMask(a) for a in annotations])
        assert (masks == mask_util.decode(proposals.rles).transpose(2, 0, 1)).all()
        boxes = np.array([a["bbox"] for a in annotations])
        np.testing.assert_array_equal(boxes[:, :2] + boxes[:, 2:], proposals.boxes[:, 2:])


def test_boxes_survive_width_and_height(tmp_path):
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 1000, (1000, 2)).astype(np.float32)
    boxes = np.concatenate([corners, corners + rng.uniform(0, 9, (1000, 2))], 1).astype(np.float32)
    image = ImageProposals(1, boxes, np.linspace(1, 0, 1000))
    [read] = read_proposal_file(write(tmp_path / "a.json", [image]))
    np.testing.assert_array_equal(read.boxes, boxes)


def test_scores_keep_their_order_and_stay_finite():
    logits = np.array([-800, -30, -1e-3, 0, 2, 20, 30, 36])
    probabilities = probabilities_of(logits)
    assert (np.diff(probabilities) > 0).all()
    np.testing.assert_allclose(logits_of(probabilities)[1:6], logits[1:6], rtol=1e-6)
    ends = logits_of(np.array([0.0, 5e-324, 0.5, 1 - 2**-53, 1.0]))
    assert np.isfinite(ends).all()
    assert (np.diff(ends) >= 0).all()
    assert ends[2] == 0


def peak_memory(action):
    tracemalloc.start()
    action()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_does_not_grow_with_a_pickle_that_is_written(tmp_path):
    image = sample(0, 1000)

    def images(count):
        return (ImageProposals(i, image.boxes, image.scores) for i in range(count))

    few, many = (
        peak_memory(lambda count=count: write(tmp_path / "a.pkl", images(count)))
        for count in (20, 400)
    )
    assert many - few < 100_000
    assert (tmp_path / "a.pkl").stat().st_size > 8_000_000


def test_memory_does_not_grow_with_a_json_file_that_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(proposal_json, "iter_json_list", lambda file: iter_json_list(file, 10_000))
    image = sample(0, 100)
    peaks = []
    for count in (5, 60):
        path = write(
            tmp_path / "a.json",
            (ImageProposals(i, image.boxes, image.scores) for i in range(count)),
        )
        peaks.append(peak_memory(lambda path=path: sum(map(len, read_proposal_file(path)))))
    assert peaks[1] - peaks[0] < 100_000
    assert (tmp_path / "a.json").stat().st_size > 600_000


# ---------------------------------------------------------------------------- files of others


def test_the_first_detectrons_pickles(tmp_path):
    boxes = [sample(i).boxes for i in (1, 2)]
    scores = [np.array([0.9, 0.8, 0.7, 0.2, 0.1], np.float32)] * 2
    content = {"boxes": boxes, "scores": scores, "indexes": np.array([1, 2]), "cfg": "RPN: {}"}
    for protocol in (0, 2, 4, 5):
        path = tmp_path / f"{protocol}.pkl"
        path.write_bytes(pickle.dumps(content, protocol))
        read = list(read_proposal_file(path))
        assert [p.image_id for p in read] == [1, 2]
        np.testing.assert_array_equal(read[1].boxes, boxes[1])
        np.testing.assert_array_equal(read[1].scores, scores[1])


def test_a_pickle_of_python_2(tmp_path):
    # {"boxes": [[[1, 2, 3, 4]]], "ids": ["a"], "scores": [[.5]]}, as cPickle wrote arrays.
    def array(shape, raw):
        return (
            b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n"
            + shape
            + b"cnumpy\ndtype\n(S'f4'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\nS"
            + repr(raw).removeprefix("b").encode()
            + b"\ntb"
        )

    boxes = array(b"(I1\nI4\nt", np.array([1, 2, 3, 4], "<f4").tobytes())
    scores = array(b"(I1\nt", np.array([0.5], "<f4").tobytes())
    content = b"(S'boxes'\n(" + boxes + b"lS'ids'\n(S'a'\nlS'scores'\n(" + scores + b"ld."
    (tmp_path / "a.pkl").write_bytes(content)
    [read] = read_proposal_file(tmp_path / "a.pkl")
    assert (read.image_id, read.scores.tolist()) == ("a", [0.5])
    assert read.boxes.tolist() == [[1, 2, 3, 4]]


@pytest.mark.parametrize("mode", [BoxMode.XYWH_ABS, 1])
def test_a_pickle_of_xywh_is_converted(tmp_path, mode):
    boxes = np.array([[5, 6, 10, 20]], np.float64)
    content = {"ids": [1], "boxes": [boxes], "objectness_logits": [np.ones(1)], "bbox_mode": mode}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content))
    [read] = read_proposal_file(tmp_path / "a.pkl")
    assert read.boxes.tolist() == [[5, 6, 15, 26]]


def test_published_chunks_with_masks_and_without_boxes(tmp_path):
    image = sample(581929, masks=True)
    entries = [
        {"segmentation": rle, "category_id": 1.0, "image_id": 581929.0, "score": score}
        for rle, score in zip(image.rles, image.probabilities.tolist(), strict=True)
    ]
    (tmp_path / "a.json").write_text("\ufeff" + json.dumps(entries), encoding="utf-8")
    assert_same(read_proposal_file(tmp_path / "a.json"), [image], score_tolerance=1e-9)


def test_images_in_pieces_are_gathered_on_demand(tmp_path):
    first, second = sample(1), sample(2)
    write(tmp_path / "a.json", [first, second])
    entries = json.loads((tmp_path / "a.json").read_text())
    mixed = entries[::2] + entries[1::2]
    (tmp_path / "b.json").write_text(json.dumps(mixed))
    assert "image id 1 do not stand together" in message_of(tmp_path / "b.json")
    assert_same(
        read_proposal_file(tmp_path / "b.json", gathered=True), [first, second],
        score_tolerance=1e-9,
    )  # fmt: skip


# -------------------------------------------------------------------------------------- damage


def good_pickle():
    image = sample(1, 3)
    return {
        "ids": [4, 5],
        "boxes": [image.boxes, image.boxes],
        "objectness_logits": [image.scores, image.scores],
        "bbox_mode": 0,
    }


class Custom:
    """Only code can bring it back."""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ids": None}, "has a NoneType for 'ids'"),
        ({"ids": [4]}, "differ in length: 1 ids, 2 boxes, 2 objectness_logits"),
        ({"ids": [4, 5.5]}, "entry 1: 5.5 is no image id"),
        ({"bbox_mode": 2}, "bbox_mode is XYXY_REL"),
        ({"bbox_mode": "xyxy"}, "bbox_mode is 'xyxy'"),
        ({"bbox_mode": None}, "bbox_mode is None"),
        ({"boxes": [np.ones((3, 4)), np.ones((3, 5))]}, r"image id 5: .* shape (3, 5)"),
        ({"boxes": [np.ones((3, 4)), np.ones((2, 4))]}, "image id 5: it has 2 boxes, but 3 scores"),
        ({"boxes": [np.ones((3, 4)), [[0, 0, 1, 1]] * 3]}, "image id 5: its boxes are a list"),
        ({"boxes": [np.ones((3, 4)), np.full((3, 4), "a")]}, "array of type <U1"),
        ({"boxes": [np.ones((3, 4)), np.full((3, 4), np.nan)]}, "image id 5: box 0 is infinite or"),
        ({"boxes": [np.ones((3, 4)), np.full((3, 4), 1e300)]}, "image id 5: box 0 is infinite or"),
        ({"boxes": [np.array([[0, 0, 9, 9], [5, 5, 3, 9], [0, 0, 1, 1.0]])] * 2}, "image id 4: 1 of"
         " its 3 boxes end before they begin, for example box 1, (5, 5, 3, 9)"),
        ({"objectness_logits": [np.ones(3), np.array([0, np.inf, 0])]}, "image id 5: score 1 is"),
        ({"objectness_logits": [np.ones(3), np.ones((3, 1))]}, "image id 5: its scores have the"),
        ({"objectness_logits": [np.ones(3), np.ones(3, bool)]}, "image id 5: its scores are an"),
        ({"boxes": [Custom(), Custom()]}, "Custom'. Proposal files hold arrays"),
    ],
)  # fmt: skip
def test_pickles_that_are_refused(tmp_path, change, said):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(good_pickle()))
    assert len(list(read_proposal_file(path))) == 2
    path.write_bytes(pickle.dumps(good_pickle() | change))
    said = said.removeprefix("image id 5: .*").strip()
    assert said in message_of(path)


def test_lists_that_lack(tmp_path):
    content = good_pickle()
    del content["boxes"]
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content))
    message = message_of(tmp_path / "a.pkl")
    assert "has no list 'boxes'. Its entries are 'ids', 'objectness_logits', 'bbox_mode'" in message
    (tmp_path / "a.pkl").write_bytes(pickle.dumps([1]))
    assert "holds a list" in message_of(tmp_path / "a.pkl")


@pytest.mark.parametrize("suffix", ["pkl", "json"])
def test_files_cut_off_anywhere(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    write(path, [sample(1, 3, masks=suffix == "json")])
    content = path.read_bytes().rstrip()
    for length in range(0, len(content), 23):
        path.write_bytes(content[:length])
        message = message_of(path)
        assert "copied only in part" in message or "empty" in message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (b'{"images": []}', "a JSON object, perhaps COCO annotations"),
        (b"\x1f\x8b\x08rest", "a gzip archive; unpack it first"),
        (b"<!DOCTYPE html>", "web page"),
        (b"[1]", "entry 0 has no usable image_id: 1"),
        (b'[{"image_id": true}]', "entry 0 has no usable image_id"),
        (b'[{"image_id": 1, "bbox": [0, 0, 1, 1]}]', "proposal 0 has None; expected a number as"),
        (b'[{"image_id": 1, "score": 1}]', "neither 'bbox' nor 'segmentation'"),
        (b'[{"image_id": 1, "score": "1", "bbox": [0, 0, 1, 1]}]', "has '1'; expected a number"),
        (b'[{"image_id": 1, "score": 1, "bbox": [0, 0, 1]}]', "has [0, 0, 1]; expected 4 numbers"),
        (b'[{"image_id": 1, "score": 1, "bbox": [0, 0, -1, 1]}]', "negative width or height"),
        (b'[{"image_id": 1, "score": NaN, "bbox": [0, 0, 1, 1]}]', "score 0 is infinite or not"),
        (b'[{"image_id": 1, "score": 1, "bbox": [0, 0, 1e999, 1]}]', "box 0 is infinite or not"),
        (b'[{"image_id": 1, "score": 1, "segmentation": [[1, 2, 3, 4]]}]', "mask 0: it is no"),
        (b'[{"image_id": 1, "score": 1, "segmentation": {"size": [2, 2], "counts": "99"}}]',
         "mask 0: the run-length code covers 18 pixels, the image has 4"),
        (b'[{"image_id": 1, "score": 1, "bbox": [0, 0, 1, 1], "segmentation": {"size": [2, 2], '
         b'"counts": "4"}}, {"image_id": 1, "score": 1, "bbox": [0, 0, 1, 1]}]',
         "proposal 1 has no 'segmentation', but others have"),
        (b'[{"image_id": 1, "score": 1, "bbox": [0, 0, 1, 1]}', "copied only in part"),
        ('[{"image_id": "é"}]'.encode("latin1"), "cannot be read as a JSON list"),
    ],
)  # fmt: skip
def test_other_files_that_are_refused(tmp_path, content, said):
    (tmp_path / "a.json").write_bytes(content)
    assert said in message_of(tmp_path / "a.json")


def test_files_that_are_not_there(tmp_path):
    assert "No such file" in message_of(tmp_path / "a.pkl")
    assert "directory" in message_of(tmp_path)


# ------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize("suffix", ["pkl", "json"])
def test_a_file_that_was_not_finished_is_not_there(tmp_path, suffix):
    def images():
        yield sample(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / f"a.{suffix}", images())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("module", "suffix"), [(proposal_pickle, "pkl"), (proposal_json, "json")])
def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch, module, suffix):
    path = tmp_path / f"a.{suffix}"
    write(path, [sample(1)])
    before = path.read_bytes()

    class Full(io.BytesIO):
        def write(self, content):
            if self.tell() > 2000:
                raise OSError(28, "No space left on device")
            return super().write(content)

    original = module.written_whole

    @contextlib.contextmanager
    def on_full_disk(path):
        with original(path):
            yield Full()

    monkeypatch.setattr(module, "written_whole", on_full_disk)
    with pytest.raises(OSError, match="No space left"):
        write(path, [sample(i, 100) for i in range(9)])
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_other_suffixes_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"\.pkl \(boxes\) or \.json"):
        proposal_writer(tmp_path / "a.npz")


def test_no_probabilities_no_logits(tmp_path):
    image = ImageProposals(3, np.zeros((1, 4), np.float32), np.array([1.5]), are_logits=False)
    with pytest.raises(DataError, match=r"image id 3 has a score of 1\.5.*--raw-scores"):
        write(tmp_path / "a.pkl", [image])
    assert list(tmp_path.iterdir()) == []


def test_answers_that_are_not_finite_are_refused():
    import torch
    from detectron2.structures import Boxes

    instances = Instances((HEIGHT, WIDTH))
    instances.proposal_boxes = Boxes(torch.zeros(2, 4))
    instances.objectness_logits = torch.tensor([0.0, torch.nan])
    with pytest.raises(DataError, match="image id 5: the model's answer is unusable: score 1 is"):
        proposals_of_instances(5, instances)
