"""Random images with objects and proposals, and what pycocotools finds on them."""

import contextlib
import io

import numpy as np
import pycocotools.mask as mask_util
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from instseg_d2.data.image_proposals import ImageProposals
from sharpmask_d2.proposal_recall import BOXES, MASKS, ProposalRecall
from sharpmask_d2.recall_objects import GroundTruth

HEIGHT, WIDTH = 24, 32
#: Annotated areas need not be those of the masks: these are on both sides of the ranges' ends.
AREAS = (0, 1, 500, 1023.5, 1024, 1024.5, 5000, 9216, 9217, 1e6, 1e10, 1e11)
MAX_DETS = (1, 2, 5, 10)


def random_boxes(generator, number):
    """(number, 4) XYWH at whole and half pixels, so that equal IoUs are frequent; some empty."""
    start = generator.integers(0, (2 * WIDTH - 8, 2 * HEIGHT - 8), (number, 2))
    size = np.minimum(generator.geometric(0.06, (number, 2)) - 1, (2 * WIDTH, 2 * HEIGHT) - start)
    return np.hstack([start, size]) / 2


def polygon_of(box):
    x, y, width, height = box
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def mask_of(box, generator):
    """(HEIGHT, WIDTH) uint8: a box with a random bite."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    left, top, width, height = np.round(box).astype(int)
    mask[top : top + height, left : left + width] = 1
    x, y, *_ = np.round(random_boxes(generator, 1)[0]).astype(int)
    mask[y : y + 3, x : x + 5] = 0
    return mask


def rle_of(mask):
    return {"size": [HEIGHT, WIDTH], "counts": mask_util.encode(mask)["counts"].decode()}


def plain_rle_of(mask):
    """Not compressed, as COCO has its crowds."""
    pixels = np.concatenate([[0], mask.ravel(order="F")])  # the first run is background
    ends = np.flatnonzero(np.diff(pixels))
    counts = np.diff(np.concatenate([[0], ends, [mask.size]])).tolist()
    return {"size": [HEIGHT, WIDTH], "counts": counts}


def segmentation_of(box, generator):
    kind = generator.integers(4)
    if kind == 0:
        return [polygon_of(box)]
    if kind == 1:
        return [polygon_of(box), polygon_of(random_boxes(generator, 1)[0]), [3.0, 3.0, 6.0, 3.0]]
    mask = mask_of(box, generator)
    return rle_of(mask) if kind == 2 else plain_rle_of(mask)


def random_content(generator, num_images=3):
    """A COCO annotation file; some images have no object, some only crowds."""
    annotations = []
    for image_id in range(1, num_images + 1):
        for box in random_boxes(generator, generator.choice([0, 1, 2, 4, 8])):
            annotation = {
                "id": len(annotations) + 1,
                "image_id": image_id,
                "category_id": int(generator.choice([7, 1, 3])),
                "bbox": box.tolist(),
                "area": float(generator.choice(AREAS)),
                "iscrowd": int(generator.random() < 0.2),
                "segmentation": segmentation_of(box, generator),
            }
            if generator.random() < 0.1:
                annotation["ignore"] = 1
            annotations.append(annotation)
    annotations = [annotations[index] for index in generator.permutation(len(annotations))]
    images = [
        {"id": number + 1, "height": HEIGHT, "width": WIDTH, "file_name": ""}
        for number in range(num_images)
    ]
    categories = [{"id": number, "name": str(number)} for number in (3, 7, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def random_proposals(generator, content):
    """One entry an image; the first image has some, others maybe none."""
    proposals = []
    for image in content["images"]:
        truth = [a["bbox"] for a in content["annotations"] if a["image_id"] == image["id"]]
        number = generator.integers(1, 16) if image["id"] == 1 else generator.integers(0, 16)
        boxes = random_boxes(generator, number)
        for index in range(number):  # most are near an object, some are copies of each other
            if truth and generator.random() < 0.7:
                near = np.array(truth[generator.integers(len(truth))])
                shift = generator.integers(-3, 4, 4) / 2 * (generator.random() < 0.7)
                low, high = np.zeros(4), np.array([WIDTH - 4, HEIGHT - 4, WIDTH, HEIGHT])
                boxes[index] = np.clip(near + shift, low, high)
        boxes[:, 2:] = np.minimum(boxes[:, 2:], (WIDTH, HEIGHT) - boxes[:, :2])
        corners = np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]]).astype(np.float32)
        scores = generator.choice([-1.5, 0.0, 0.25, 0.5, 2.0, 3.0], number)
        rles = [rle_of(mask_of(box, generator)) for box in boxes]
        proposals.append(ImageProposals(image["id"], corners, scores, rles))
    return proposals


def coco_recalls(content, proposals, max_dets=MAX_DETS):
    """By task, the recalls (T, A, len(max_dets)) of pycocotools; nan without objects."""
    results = [
        {
            "image_id": image.image_id,
            "category_id": content["categories"][0]["id"],
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "score": float(image.scores[index]),
            "segmentation": image.rles[index],
        }
        for image in proposals
        for index, (x0, y0, x1, y1) in enumerate(image.boxes.tolist())
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = content
        truth.createIndex()
        found = truth.loadRes(results)
        return {
            task: _recall(COCOeval(truth, found, kind), max_dets)
            for task, kind in ((BOXES, "bbox"), (MASKS, "segm"))
        }


def _recall(evaluation, max_dets):
    evaluation.params.useCats = 0
    evaluation.params.maxDets = list(max_dets)
    evaluation.evaluate()
    evaluation.accumulate()
    recalls = evaluation.eval["recall"][:, 0]
    return np.where(recalls < 0, np.nan, recalls)


def our_recall(content, proposals, depth=MAX_DETS[-1]):
    """What this project finds."""
    truth = GroundTruth(content, "random")
    recall = ProposalRecall(depth)
    for image in proposals:
        recall.add_image(truth[image.image_id], image)
    return recall, truth
