"""Images that cannot be used."""

from .case import Case
from .data import OWN
from .files import absent, both, data_set, picture, raw, text

DEMO = "tools/demo.py {net} --output out --input %s {tiny} MODEL.WEIGHTS {sparseinst}"

CASES = [
    Case("an image that is not there", DEMO % "cat.jpg", "cat.jpg does not exist"),
    Case(
        "a folder without images",
        DEMO % ".",
        "the folder . has no images; files with the endings .bmp, .jpeg, .jpg, .pgm, "
        ".png, .ppm, .tif, .tiff, .webp are looked for",
        text("notes.txt", "x"),
    ),
    Case("a pattern that nothing fits", DEMO % "'*.jpg'", "no image or video matches *.jpg"),
    Case(
        "a camera that is not there",
        DEMO.replace("--input %s", "--webcam 97"),
        "camera 97 cannot be opened: is it there, and free?",
    ),
    Case(
        "a training image that is none",
        OWN,
        "image ...images/a.png (image id 11) cannot be read (...). It may be truncated or"
        " no image: replace it or leave it out.",
        both(data_set(), text("images/a.png", "no image")),
    ),
    Case(
        "a training image that is empty",
        OWN,
        "image ...images/a.png (image id 11) cannot be read (...). It may be truncated or"
        " no image: replace it or leave it out.",
        both(data_set(), raw("images/a.png", b"")),
    ),
    Case(
        "a training image that is missing",
        OWN,
        "data set 'own_train': 1 of the 2 images are missing, for example: "
        "...images/a.png; Put the images there or correct the paths. The file names are "
        "relative to the image folder '...images'.",
        both(data_set(), absent("images/a.png")),
    ),
    Case(
        "no training image in the folder",
        OWN,
        "--train-images (DATASETS.OWN.TRAIN_IMAGES): none of the images of "
        "...annotations.json is in the folder ...images; 2 were looked for, the first is "
        "a.png. The file names in the annotation file are relative to that folder.",
        both(data_set(), absent("images/a.png"), absent("images/b.png")),
    ),
    Case(
        "a training image of another size",
        OWN,
        "image ...images/a.png (image id 11) is 40 x 30 pixels (width x height), but its "
        "annotation says 12 x 10. Correct 'width' and 'height', or the image.",
        both(data_set(), picture("images/a.png", 30, 40)),
    ),
    Case(
        "a worker meets an image that is none",
        OWN + "DATALOADER.NUM_WORKERS 1",
        "image ...images/a.png (image id 11) cannot be read (...). It may be truncated or"
        " no image: replace it or leave it out.",
        both(data_set(), text("images/a.png", "no image")),
    ),
    Case(
        "proposals of an image that is none",
        "tools/make_proposals.py {patch_net} --dataset own_val --output out {tiny} "
        "MODEL.WEIGHTS {sharpmask} DATASETS.OWN.VAL_JSON annotations.json "
        "DATASETS.OWN.VAL_IMAGES images",
        "image ...images/b.png (image id 12) cannot be read (...). It may be truncated or"
        " no image: replace it or leave it out.",
        both(data_set(), text("images/b.png", "no image")),
    ),
    Case(
        "timing with an image that is none",
        "tools/time_proposals.py --image cat.jpg --rounds 1",
        "image cat.jpg (image id unknown) cannot be read (...). It may be truncated or no"
        " image: replace it or leave it out.",
        text("cat.jpg", "no image"),
    ),
    Case(
        "timing with an image that is not there",
        "tools/time_proposals.py --image cat.jpg --rounds 1",
        "image cat.jpg (image id unknown) does not exist.",
    ),
]
