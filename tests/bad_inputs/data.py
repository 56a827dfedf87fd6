"""Annotations, proposals and results that cannot be used."""

from __future__ import annotations

from typing import Any

from .case import Case
from .files import Write, absent, annotation, both, data_set, raw, text

OWN = (
    "train_net.py {net} "
    "--train-json annotations.json --train-images images {tiny} OUTPUT_DIR out "
    "MODEL.SPARSE_INST.DECODER.NUM_CLASSES 2 DATASETS.TRAIN \"('own_train',)\" DATASETS.TEST '()' "
)
CHECK = "tools/check_dataset.py --json annotations.json --images images --output out"
PROPOSALS = "tools/evaluate_proposals.py --annotations annotations.json --proposals "
REPORT = "tools/report.py --json annotations.json --output report.html --results "


def trained(name: str, files: Write | None, says: str) -> Case:
    """Own data that cannot be trained on."""
    return Case(name, OWN, says, files)


def image(**fields: Any) -> Write:
    """A data set with other fields in its first image (id 11)."""
    return data_set(lambda content: content["images"][0].update(fields))


def without(part: str, key: str | None = None) -> Write:
    """A data set without one of its lists, or whose first entry there lacks a key."""

    def change(content: dict[str, Any]) -> None:
        if key is None:
            del content[part]
        else:
            del content[part][0][key]

    return data_set(change)


PROPOSALS_OF_OTHER_IMAGES = both(
    data_set(),
    text(
        "boxes.json",
        '[{"image_id": 5, "bbox": [1, 1, 5, 5], "score": 0.5, "category_id": 1}]',
    ),
)

CASES = [
    trained(
        "annotations that are not there",
        None,
        "--train-json (DATASETS.OWN.TRAIN_JSON): ...annotations.json is absent; check the path",
    ),
    trained(
        "annotations in XML",
        both(data_set(), text("annotations.json", "<annotation><folder>VOC2007</folder>")),
        "...annotations.json cannot be read as JSON (...). It may be damaged or copied "
        "only in part: fetch or write it again.",
    ),
    trained(
        "annotations that are cut off",
        both(data_set(), text("annotations.json", '{"images": [{"id": 1, ')),
        "...annotations.json cannot be read as JSON (...). It may be damaged or copied "
        "only in part: fetch or write it again.",
    ),
    trained(
        "an empty file",
        both(data_set(), text("annotations.json", "")),
        "...annotations.json cannot be read as JSON (...). It may be damaged or copied "
        "only in part: fetch or write it again.",
    ),
    trained(
        "annotations in another encoding",
        both(data_set(), raw("annotations.json", '{"info": "Größe"}'.encode("latin-1"))),
        "...annotations.json cannot be read as JSON (...). It may be damaged or copied "
        "only in part: fetch or write it again.",
    ),
    trained(
        "a list of results in place of annotations",
        both(data_set(), text("annotations.json", "[]")),
        "...annotations.json is not a COCO annotation file: its top level is a list, "
        "expected an object with the lists 'images', 'annotations' and 'categories'.",
    ),
    trained(
        "no categories",
        without("categories"),
        "...annotations.json has no list 'categories'. A COCO annotation file needs it.",
    ),
    trained(
        "no images",
        without("images"),
        "...annotations.json has no list 'images'. A COCO annotation file needs it.",
    ),
    trained(
        "an image without its name",
        without("images", "file_name"),
        "...annotations.json: entries of kind 'image' that lack keys: 1; image number 0 "
        "(id 11): lacks file_name; Complete or remove them.",
    ),
    trained(
        "an annotation without a mask",
        without("annotations", "segmentation"),
        "data set 'own_train': annotations that cannot be used: 1; annotation id 101 of "
        "image id 11 (...images/a.png): has no 'segmentation'; instance segmentation "
        "needs polygons or a run-length code; Correct or remove them in "
        "...annotations.json.",
    ),
    trained(
        "a category id that is not listed",
        annotation(category_id=99),
        "...annotations.json: annotations that cannot be used: 1; annotation id 101 of "
        "image id 11: category_id 99 is not in the list 'categories'; Correct or remove "
        "them.",
    ),
    trained(
        "a polygon of text",
        annotation(segmentation=[["a", "b", "c", "d", "e", "f"]]),
        "data set 'own_train': annotations that cannot be used: 1; annotation id 101 of "
        "image id 11 (...images/a.png): a polygon must be a flat list of numbers [x0, y0,"
        " x1, y1, ...]; Correct or remove them in ...annotations.json.",
    ),
    trained(
        "a mask of another size",
        annotation(segmentation={"size": [99, 99], "counts": [9801]}),
        "data set 'own_train': annotations that cannot be used: 1; annotation id 101 of "
        "image id 11 (...images/a.png): the run-length code is for an image of (height, "
        "width) = (99, 99), but the image is (10, 12); Correct or remove them in "
        "...annotations.json.",
    ),
    trained(
        "a mask of broken run lengths",
        annotation(segmentation={"size": [10, 12], "counts": [5, 5]}),
        "data set 'own_train': annotations that cannot be used: 1; annotation id 101 of "
        "image id 11 (...images/a.png): the run-length code covers 10 pixels, the image "
        "has 120; Correct or remove them in ...annotations.json.",
    ),
    trained(
        "a box of three numbers",
        annotation(bbox=[1, 2, 3]),
        "data set 'own_train': annotations that cannot be used: 1; annotation id 101 of "
        "image id 11 (...images/a.png): 'bbox' is [1, 2, 3]; it needs 4 numbers; Correct "
        "or remove them in ...annotations.json.",
    ),
    trained(
        "a box of NaN",
        annotation(bbox=[float("nan"), 1, 8, 8]),
        "data set 'own_train': annotations that cannot be used: 1; annotation id 101 of "
        "image id 11 (...images/a.png): 'bbox' is [nan, 1, 8, 8]; it needs 4 numbers; "
        "Correct or remove them in ...annotations.json.",
    ),
    trained(
        "two categories of one name",
        data_set(lambda c: c["categories"][1].update(name="cat")),
        "...annotations.json: categories that cannot be told apart: 1; category ids 3 and"
        " 7 have the same name, 'cat'; Classes go by their names: give each category a "
        "whole number and a name of its own.",
    ),
    trained(
        "two images with one id",
        image(id=12),
        "...annotations.json: ids of kind 'image' that are not unique: 1; image id 12 "
        "occurs more than once; Give each its own id.",
    ),
    trained(
        "an image of no height",
        image(height=0),
        "...annotations.json: entries of kind 'image' with values of another kind: 1; "
        "image number 0: 'height' is 0, expected a whole number below 65536; Correct or "
        "remove them.",
    ),
    trained(
        "only crowds",
        data_set(lambda c: [a.update(iscrowd=1) for a in c["annotations"]]),
        "data set 'own_train' has no annotated instances, so nothing can be learned.",
    ),
    trained(
        "annotations with a byte order mark",
        both(data_set(), raw("annotations.json", b"\xef\xbb\xbf{}")),
        "...annotations.json begins with a byte order mark (UTF-8), as some programs on Windows "
        "write it. Save it as UTF-8 without that mark.",
    ),
    trained(
        "annotations in UTF-16",
        both(data_set(), raw("annotations.json", "{}".encode("utf-16"))),
        "...annotations.json begins with a byte order mark (UTF-16), as some programs on Windows "
        "write it. Save it as UTF-8 without that mark.",
    ),
    trained(
        "a crowd flag of text",
        annotation(iscrowd="0"),
        "...annotations.json: annotations that cannot be used: 1; annotation id 101 of image id 11:"
        " 'iscrowd' is '0', expected 0 or 1; Correct or remove them.",
    ),
    trained(
        "outlines in fractions of the image's size",
        data_set(
            lambda c: [
                a.update(segmentation=[[0.1, 0.1, 0.9, 0.1, 0.9, 0.9]], iscrowd=0)
                for a in c["annotations"]
            ]
        ),
        "data set 'own_train': none of its 3 objects covers more than a pixel of its image. "
        "Polygons are in pixels of the image, not in fractions of its size.",
    ),
    trained(
        "one id of text among numbers",
        image(id="11"),
        "...annotations.json: some ids of kind 'image' are text, others numbers, such as '11' and "
        "12. Write all of them in one way.",
    ),
    trained(
        "an image path with backslashes",
        image(file_name="x\\a.png"),
        "data set 'own_train': 1 of the 2 images are missing, for example: "
        "...images/x\\a.png; Put the images there or correct the paths. The file names are"
        " relative to the image folder '...images'.",
    ),
    Case(
        "another number of classes than the data has",
        OWN + "MODEL.SPARSE_INST.DECODER.NUM_CLASSES 5",
        "data set 'own_train' has 2 classes (cat, dog), but the model is configured for "
        "5: set MODEL.SPARSE_INST.DECODER.NUM_CLASSES 2 in the config file or at the end "
        "of the command line.",
        data_set(),
    ),
    Case(
        "a folder in place of annotations",
        OWN.replace("annotations.json", "images"),
        "--train-json (DATASETS.OWN.TRAIN_JSON): ...images is a folder; name the file in it",
        data_set(),
    ),
    Case(
        "a folder of images that is not there",
        OWN.replace("-images images", "-images pictures"),
        "--train-images (DATASETS.OWN.TRAIN_IMAGES): the folder ...pictures does not exist",
        data_set(),
    ),
    Case(
        "a check of no JSON",
        CHECK,
        "annotations.json cannot be read as JSON (...). It may be damaged or copied only "
        "in part: fetch or write it again.",
        both(data_set(), text("annotations.json", "images: 5")),
        status=2,
    ),
    Case(
        "a check of absent annotations",
        CHECK.replace("--images images", "--no-images"),
        "annotations.json does not exist; check the path",
        status=2,
    ),
    Case(
        "a check of an absent folder of images",
        CHECK,
        "the image folder images does not exist; --no-images does without",
        both(data_set(), absent("images")),
        status=2,
    ),
    Case(
        "a check of an unknown data set",
        "tools/check_dataset.py --dataset shapes_vall",
        "data set 'shapes_vall' is not registered. Did you mean 'shapes_val' or "
        "'shapes_train'? Data in COCO format is registered with "
        "detectron2.data.datasets.register_coco_instances('shapes_vall', {}, "
        "'annotations.json', 'image_folder')",
        status=2,
    ),
    Case(
        "proposals that are not there",
        PROPOSALS + "boxes.pkl",
        "boxes.pkl cannot be read: No such file or directory; check the path",
        data_set(),
    ),
    Case(
        "proposals that are no pickle",
        PROPOSALS + "boxes.pkl",
        "boxes.pkl cannot be read as a pickle: it is damaged or was copied only in part "
        "(UnpicklingError: cut off, or no pickle: b'n' is no opcode). Fetch or write it "
        "again.",
        both(data_set(), text("boxes.pkl", "no pickle")),
    ),
    Case(
        "proposals that run code",
        PROPOSALS + "boxes.pkl",
        "boxes.pkl is refused: it holds 'os.system'. Proposal files hold arrays, numbers "
        "and lists only; other things can run code of the file's author.",
        both(data_set(), raw("boxes.pkl", b"cos\nsystem\n(S'touch x'\ntR.")),
    ),
    Case(
        "proposals of other images",
        PROPOSALS + "boxes.json",
        "there are proposals for image id 5, which annotations.json does not have (one of"
        " its 2 ids: 11). Were they made for another data set or split?",
        PROPOSALS_OF_OTHER_IMAGES,
    ),
    Case(
        "proposals without scores",
        PROPOSALS + "boxes.json",
        "boxes.json: image id 11: proposal 0 has None; expected a number as 'score'",
        both(data_set(), text("boxes.json", '[{"image_id": 11, "bbox": [1, 1, 5, 5]}]')),
    ),
    Case(
        "checked proposals of other images",
        "tools/proposal_files.py check boxes.json --annotations annotations.json",
        "boxes.json is of another data set: none of its 1 image ids (5) is one of the 2 "
        "of this one (11, 12).",
        PROPOSALS_OF_OTHER_IMAGES,
    ),
    Case(
        "converted proposals that are cut off",
        "tools/proposal_files.py convert boxes.json boxes.pkl",
        "boxes.json cannot be read as a JSON list of proposals: Expecting ',' delimiter "
        "(at character 31). It is damaged, of another kind, or was copied only in part: "
        "fetch or write it again.",
        text("boxes.json", '[{"image_id": 11, "bbox": [1, 1'),
    ),
    Case(
        "proposals of an unknown data set",
        "tools/make_proposals.py {patch_net} --dataset coco_2017_vall --output out {tiny}"
        " MODEL.WEIGHTS {sharpmask}",
        "data set 'coco_2017_vall' is not registered. Did you mean 'coco_2017_val' or "
        "'coco_2014_val' or 'coco_2017_val_100'? Data in COCO format is registered with "
        "detectron2.data.datasets.register_coco_instances('coco_2017_vall', {}, "
        "'annotations.json', 'image_folder'); Built-in data sets are looked for in the "
        "folder that the environment variable DETECTRON2_DATASETS names (now ...). It "
        "should contain coco/annotations/instances_{train,val}2017.json and "
        "coco/{train,val}2017/*.jpg",
    ),
    Case(
        "proposals of a data set whose files are absent",
        "tools/make_proposals.py {patch_net} --dataset coco_2017_val --output out {tiny} "
        "MODEL.WEIGHTS {sharpmask}",
        "data set 'coco_2017_val': the annotation file "
        "datasets/coco/annotations/instances_val2017.json does not exist. Built-in data "
        "sets are looked for in the folder that the environment variable "
        "DETECTRON2_DATASETS names (now ...). It should contain "
        "coco/annotations/instances_{train,val}2017.json and coco/{train,val}2017/*.jpg",
    ),
    Case(
        "a report of results that are no JSON",
        REPORT + "results.json",
        "results.json cannot be read as JSON (...). It may be damaged or copied only in "
        "part: fetch or write it again.",
        both(data_set(), text("results.json", "[{")),
    ),
    Case(
        "a report of results without masks",
        REPORT + "results.json",
        "results.json: result number 0 (image id 11) has neither bbox nor segmentation",
        both(data_set(), text("results.json", '[{"image_id": 11, "category_id": 3, "score": 1}]')),
    ),
    Case(
        "a report of results of another data set",
        REPORT + "results.json",
        "results.json: results name 1 image ids that annotations.json does not have, such"
        " as 999; results and annotations must be of the same data set",
        both(
            data_set(),
            text(
                "results.json",
                '[{"image_id": 999, "category_id": 3, "score": 1, "bbox": [1, 1, 2, 2]}]',
            ),
        ),
    ),
    Case(
        "training on COCO without its files",
        "train_net.py {net} {tiny} OUTPUT_DIR out DATASETS.TRAIN \"('coco_2017_train',)\"",
        "data set 'coco_2017_train': the annotation file "
        "datasets/coco/annotations/instances_train2017.json does not exist. Built-in data"
        " sets are looked for in the folder that the environment variable "
        "DETECTRON2_DATASETS names (now ...). It should contain "
        "coco/annotations/instances_{train,val}2017.json and coco/{train,val}2017/*.jpg",
    ),
    Case(
        "evaluation with other classes than those of the config",
        "train_net.py --eval-only {net} --val-json annotations.json --val-images images "
        "{tiny} OUTPUT_DIR out MODEL.WEIGHTS {sparseinst} DATASETS.TEST \"('own_val',)\" "
        "DATASETS.OWN.CLASSES \"('cat','dog','c','d','e','f')\"",
        "the categories differ; only in DATASETS.OWN.CLASSES: 'c', 'd', 'e', 'f'. "
        "DATASETS.OWN.CLASSES is of the run whose config this is; DATASETS.OWN.CLASSES "
        '"()" takes the classes from the data.',
        data_set(),
    ),
    Case(
        "evaluation without data",
        "train_net.py --eval-only {net} {tiny} OUTPUT_DIR out DATASETS.TEST ()",
        "DATASETS.TEST is empty; name a data set to evaluate on",
    ),
    Case(
        "a detector without proposals",
        "train_net.py --config-file quickstart/fast_rcnn_shapes {tiny} OUTPUT_DIR out "
        "DATASETS.PROPOSAL_FILES_TRAIN ()",
        "data set 'shapes_val': its proposal file output/proposals/shapes_val_boxes.pkl "
        "does not exist. DATASETS.PROPOSAL_FILES_TRAIN and DATASETS.PROPOSAL_FILES_TEST "
        "name one for each data set; tools/make_proposals.py makes them.",
    ),
]
