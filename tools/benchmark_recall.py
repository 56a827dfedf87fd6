#!/usr/bin/env python
"""How long the evaluation of proposals takes, and how much memory: synthetic images.

``python tools/benchmark_recall.py`` makes 5000 images with 1000 proposals each, boxes and masks, as
it goes, and measures their evaluation alone. ``--compare N`` gives the first N images to
pycocotools too: its time, and whether its recalls are the same.
"""

import argparse
import contextlib
import io
import resource
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tqdm import tqdm

from instseg_d2.command_line import new_parser, one_line_errors, positive
from instseg_d2.data.image_proposals import ImageProposals
from instseg_d2.rle_masks import RLE, RLEMasks
from sharpmask_d2.proposal_recall import BOXES, MASKS, ProposalRecall
from sharpmask_d2.recall import AREA_RANGES
from sharpmask_d2.recall_objects import GroundTruth

IMAGE_SIZE = (480, 640)
"""Height and width of the commonest image in COCO."""
OBJECTS = 7
"""On average an image of COCO has as many."""
DEPTH = 1000


def main() -> None:
    """Parse the command line and run."""
    parser = new_parser(__doc__)
    parser.add_argument("--images", type=positive, default=5000)
    parser.add_argument("--proposals", type=positive, default=1000, help="per image")
    parser.add_argument("--no-masks", action="store_true", help="boxes only")
    parser.add_argument("--compare", type=positive, metavar="N", help="images for pycocotools, too")
    args = parser.parse_args()
    with one_line_errors(args):
        run(args)


def run(args: argparse.Namespace) -> None:
    """Evaluate, print, and compare if that is wanted."""
    started_with = peak_memory()
    scene = Scene(args.proposals, masks=not args.no_masks)
    numbers = tqdm(range(args.images), unit="image", disable=None)
    counts, seconds = evaluate(scene, numbers)
    print(
        f"{args.images} images x {args.proposals} proposals, boxes"
        f"{'' if args.no_masks else ' and masks'}: {seconds:.1f} s of one core, "
        f"{1000 * seconds / args.images:.2f} ms an image; at most {peak_memory():.0f} MB of memory "
        f"({started_with:.0f} MB before)"
    )
    for task, recall in counts.items():
        at = {k: 100 * recall.average_recalls()[k - 1] for k in (10, 100, 1000)}
        print(f"{task}: " + ", ".join(f"AR@{k} {value:.1f}" for k, value in at.items()))
    if args.compare:
        compare(scene, min(args.compare, args.images))


def peak_memory() -> float:
    """Of this process since its start, in MB."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


# ------------------------------------------------------------------------------- synthetic images


@dataclass(frozen=True)
class Scene:
    """Makes images: objects are blobs, most proposals are blobs near an object.

    Attributes:
        num_proposals: per image.
        masks: whether proposals have masks.
    """

    num_proposals: int
    masks: bool

    def content(self, number: int) -> dict[str, Any]:
        """Image ``number`` as a COCO annotation file."""
        generator = np.random.default_rng([number, 0])
        blobs = random_blobs(generator, max(generator.poisson(OBJECTS), 1))
        annotations = []
        for index, rle in enumerate(rles_of(blobs)):
            annotations.append(
                {
                    "id": 1000 * number + index + 1,
                    "image_id": number,
                    "category_id": 1,
                    "bbox": mask_util.toBbox(rle).tolist(),
                    "area": float(mask_util.area(rle)),
                    "iscrowd": int(generator.random() < 0.02),
                    "segmentation": rle,
                }
            )
        height, width = IMAGE_SIZE
        image = {"id": number, "height": height, "width": width, "file_name": f"{number}.jpg"}
        categories = [{"id": 1, "name": "object"}]
        return {"images": [image], "annotations": annotations, "categories": categories}

    def proposals(self, number: int) -> ImageProposals:
        """Of image ``number``, in any order."""
        generator = np.random.default_rng([number, 0])
        objects = random_blobs(generator, max(generator.poisson(OBJECTS), 1))
        objects = objects[: (2 * len(objects) + 2) // 3]  # the others are found by chance
        generator = np.random.default_rng([number, 1])
        blobs = objects[generator.integers(len(objects), size=self.num_proposals)]
        spread = generator.exponential(0.15, (len(blobs), 1))
        blobs[:, :2] += spread * blobs[:, 2:4] * generator.normal(size=(len(blobs), 2))
        blobs[:, 2:4] *= np.exp(spread * generator.normal(size=(len(blobs), 2)))
        blobs[:, 4:] += spread * generator.normal(size=blobs[:, 4:].shape)
        elsewhere = generator.random(len(blobs)) < 0.3
        blobs[elsewhere] = random_blobs(generator, int(elsewhere.sum()))
        rles = rles_of(blobs)
        boxes = RLEMasks(rles, IMAGE_SIZE).bounding_boxes().tensor.numpy()
        scores = generator.normal(size=len(blobs)) - spread[:, 0]
        return ImageProposals(number, boxes, scores, rles if self.masks else None)


CORNERS = 24


def random_blobs(generator: np.random.Generator, number: int) -> np.ndarray:
    """(number, 4 + CORNERS): centre x, y, half sides, and a factor for each corner."""
    height, width = IMAGE_SIZE
    centres = generator.uniform((0, 0), (width, height), (number, 2))
    sides = np.exp(generator.uniform(np.log(8), np.log(200), (number, 1)))
    sides = sides * np.exp(generator.normal(0, 0.3, (number, 2)))
    corners = generator.uniform(0.6, 1, (number, CORNERS))
    return np.hstack([centres, sides, corners])


def rles_of(blobs: np.ndarray) -> list[RLE]:
    """The masks of blobs."""
    angles = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    x = blobs[:, :1] + blobs[:, 2:3] * blobs[:, 4:] * np.cos(angles)
    y = blobs[:, 1:2] + blobs[:, 3:4] * blobs[:, 4:] * np.sin(angles)
    polygons = np.stack([x, y], axis=2).reshape(len(blobs), 2 * CORNERS)
    rles: list[RLE] = mask_util.frPyObjects(polygons.tolist(), *IMAGE_SIZE)
    return rles


# ------------------------------------------------------------------------------------- measuring


def evaluate(scene: Scene, numbers: Any) -> tuple[dict[str, Any], float]:
    """Recalls by task, and the seconds that their computation took on one core, the making of
    images aside."""
    recall = ProposalRecall(DEPTH)
    seconds = 0.0
    for number in numbers:
        content, proposals = scene.content(number), scene.proposals(number)
        start = time.process_time()
        recall.add_image(GroundTruth(content, "synthetic")[number], proposals)
        seconds += time.process_time() - start
    counts = {task: recall.counts[task] for task in ((BOXES, MASKS) if scene.masks else (BOXES,))}
    return counts, seconds


def compare(scene: Scene, images: int) -> None:
    """Print the time of both on the first images, and the greatest difference of a recall."""
    counts, seconds = evaluate(scene, range(images))
    contents = [scene.content(number) for number in range(images)]
    coco = COCO()
    coco.dataset = dict(contents[0])
    for key in ("images", "annotations"):
        coco.dataset[key] = [entry for content in contents for entry in content[key]]
    results = []
    for number in range(images):
        results += coco_results(scene.proposals(number))
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        found = coco.loadRes(results)
        start = time.process_time()
        recalls = {task: coco_recalls(coco, found, task) for task in counts}
        coco_seconds = time.process_time() - start
    worst = max(
        np.nanmax(np.abs(counts[task].recalls(area)[:, [9, 99, 999]] - recalls[task][:, index]))
        for task in counts
        for index, area in enumerate(AREA_RANGES)
    )
    print(
        f"{images} images: {seconds:.2f} s, with pycocotools {coco_seconds:.2f} s "
        f"({coco_seconds / seconds:.0f} x); greatest difference of a recall {worst:.1e}"
    )


def coco_results(proposals: ImageProposals) -> list[dict[str, Any]]:
    """As COCO's evaluation takes them."""
    boxes = proposals.boxes.astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    results = []
    for index, box in enumerate(boxes.tolist()):
        result = {"image_id": proposals.image_id, "category_id": 1, "bbox": box}
        result["score"] = float(proposals.scores[index])
        if proposals.rles is not None:
            result["segmentation"] = proposals.rles[index]
        results.append(result)
    return results


def coco_recalls(truth: COCO, found: COCO, task: str) -> np.ndarray:
    """(T, A, 3) of pycocotools, with 10, 100 and 1000 proposals; nan without objects."""
    evaluation = COCOeval(truth, found, "bbox" if task == BOXES else "segm")
    evaluation.params.useCats = 0
    evaluation.params.maxDets = [10, 100, 1000]
    evaluation.evaluate()
    evaluation.accumulate()
    recalls = evaluation.eval["recall"][:, 0]
    return np.where(recalls < 0, np.nan, recalls)


if __name__ == "__main__":
    main()
