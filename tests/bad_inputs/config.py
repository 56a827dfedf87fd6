"""Config files and values that cannot be used."""

from .case import Case
from .files import picture, raw, text

TRAIN = "train_net.py {net} {tiny} OUTPUT_DIR out "
MINE = "train_net.py --config-file mine.yaml"


def value(name: str, key: str, given: object, says: str) -> Case:
    """A value in the config of a training."""
    return Case(name, f'{TRAIN} {key} "{given}"', says, text("taken", ""))


CASES = [
    Case(
        "a file that is no YAML",
        MINE,
        "mine.yaml is not valid YAML: line 2, column 1: while parsing a flow mapping, "
        "expected ',' or '}', but got '<stream end>'",
        text("mine.yaml", "SOLVER: {MAX_ITER: 1\n"),
    ),
    Case(
        "a file with tabs",
        MINE,
        "mine.yaml is not valid YAML: line 2, column 1: while scanning for the next "
        "token, found character '\\t' that cannot start any token",
        text("mine.yaml", "SOLVER:\n\tMAX_ITER: 1\n"),
    ),
    Case(
        "a file that is not text",
        MINE,
        "mine.yaml is not text in UTF-8; save it as such",
        raw("mine.yaml", bytes(range(256))),
    ),
    Case(
        "an empty base",
        MINE,
        "mine.yaml: its _BASE_ file gone.yaml does not exist",
        text("mine.yaml", "_BASE_: gone.yaml\n"),
    ),
    Case(
        "a file that is a list",
        MINE,
        "mine.yaml: not a config: KEY: VALUE pairs are wanted",
        text("mine.yaml", "- 1\n- 2\n"),
    ),
    Case(
        "a file that wants to run code",
        MINE,
        "mine.yaml is refused: line 1, column 13: could not determine a constructor for "
        "the tag 'tag:yaml.org,2002:python/object/apply:os.getcwd'. Configs hold plain "
        "values only, because building other objects can run code of the file's author; "
        "write the value out.",
        text("mine.yaml", "OUTPUT_DIR: !!python/object/apply:os.getcwd []\n"),
    ),
    Case(
        "an unknown key in a file",
        MINE,
        "mine.yaml: unknown config key SOLVER.BASE_LEARNING_RATE; did you mean SOLVER.BASE_LR_END?",
        text("mine.yaml", "SOLVER: {BASE_LEARNING_RATE: 1}\n"),
    ),
    Case(
        "a base that is its own base",
        MINE,
        "mine.yaml: its _BASE_ files are each other's, or more than 50. The last one was "
        "mine.yaml; take a _BASE_ out.",
        text("mine.yaml", "_BASE_: mine.yaml\n"),
    ),
    value(
        "an unknown key",
        "SOLVER.LEARNING_RATE",
        1,
        "command line: unknown config key SOLVER.LEARNING_RATE; "
        "instseg_d2.config.get_cfg() has all keys",
    ),
    value(
        "a value of the wrong type",
        "SOLVER.BASE_LR",
        "fast",
        "command line: SOLVER.BASE_LR is fast (text); it must be a number, such as 5e-05",
    ),
    value(
        "a value for a group",
        "SOLVER",
        1,
        "command line: SOLVER is a group of keys, not a value; give one of its keys",
    ),
    value(
        "an unknown architecture",
        "MODEL.META_ARCHITECTURE",
        "SparseInts",
        "MODEL.META_ARCHITECTURE is 'SparseInts', which does not exist; known are ...",
    ),
    value(
        "an unknown backbone",
        "MODEL.BACKBONE.NAME",
        "build_resnet",
        "MODEL.BACKBONE.NAME is 'build_resnet', which does not exist; known are ...",
    ),
    value(
        "an unknown encoder",
        "MODEL.SPARSE_INST.ENCODER.NAME",
        "Encoder",
        "MODEL.SPARSE_INST.ENCODER.NAME is 'Encoder', which does not exist; known are "
        "InstanceContextEncoder",
    ),
    value(
        "a feature that the backbone does not give",
        "MODEL.RESNETS.OUT_FEATURES",
        "['res4']",
        "MODEL.SPARSE_INST.ENCODER.IN_FEATURES names res3, res5, but the backbone gives "
        "res4 (MODEL.RESNETS.OUT_FEATURES for a ResNet)",
    ),
    value(
        "groups that do not divide",
        "MODEL.SPARSE_INST.DECODER.GROUPS",
        7,
        "the width of the instance branch (16, MODEL.SPARSE_INST.DECODER.INST.DIM) must "
        "be a multiple of the groups (7, MODEL.SPARSE_INST.DECODER.GROUPS)",
    ),
    value(
        "no classes",
        "MODEL.SPARSE_INST.DECODER.NUM_CLASSES",
        0,
        "data set 'shapes_val' has 6 classes (disc, square, triangle, star, ring, ...), "
        "but the model is configured for 0: set MODEL.SPARSE_INST.DECODER.NUM_CLASSES 6 "
        "in the config file or at the end of the command line.",
    ),
    value(
        "no masks",
        "MODEL.SPARSE_INST.DECODER.NUM_MASKS",
        0,
        "MODEL.SPARSE_INST.DECODER.NUM_MASKS is 0; it must be a number from 1, the most "
        "instances of an image",
    ),
    value(
        "a depth that no ResNet has",
        "MODEL.RESNETS.DEPTH",
        42,
        "MODEL.RESNETS.DEPTH is 42; it must be 18, 34, 50, 101 or 152",
    ),
    value(
        "a norm that is unknown",
        "MODEL.RESNETS.NORM",
        "BatchNorm",
        "MODEL.RESNETS.NORM is 'BatchNorm'; it must be 'FrozenBN', 'BN', 'SyncBN', 'GN', "
        "'LN', 'nnSyncBN', 'naiveSyncBN', 'naiveSyncBN_N' or ''",
    ),
    value(
        "two numbers as the mean of three channels",
        "MODEL.PIXEL_MEAN",
        "[1.0, 2.0]",
        "MODEL.PIXEL_MEAN has 2 numbers and MODEL.PIXEL_STD 3; both need one for each "
        "channel of the image",
    ),
    value(
        "a standard deviation of zero",
        "MODEL.PIXEL_STD",
        "[0.0, 1.0, 1.0]",
        "MODEL.PIXEL_STD is [0.0, 1.0, 1.0]; it must be numbers above 0",
    ),
    value(
        "an unknown device",
        "MODEL.DEVICE",
        "gpu",
        "MODEL.DEVICE is 'gpu'; it must be 'cuda', 'cuda:N' or 'cpu'",
    ),
    value(
        "an unknown optimiser",
        "SOLVER.OPTIMIZER",
        "LION",
        "SOLVER.OPTIMIZER is 'LION'; known are ADAMW and SGD",
    ),
    value(
        "a negative learning rate",
        "SOLVER.BASE_LR",
        -0.1,
        "SOLVER.BASE_LR is -0.1; it must be a number from 0",
    ),
    value(
        "a learning rate of NaN",
        "SOLVER.BASE_LR",
        "float('nan')",
        "command line: SOLVER.BASE_LR is float('nan') (text); it must be a number, such as 5e-05",
    ),
    value(
        "a batch of nothing",
        "SOLVER.IMS_PER_BATCH",
        0,
        "SOLVER.IMS_PER_BATCH is 0; it must be a whole number from 1",
    ),
    value(
        "a negative batch",
        "SOLVER.IMS_PER_BATCH",
        -2,
        "SOLVER.IMS_PER_BATCH is -2; it must be a whole number from 1",
    ),
    value(
        "no iterations",
        "SOLVER.MAX_ITER",
        0,
        "SOLVER.MAX_ITER is 0; it must be a whole number from 1",
    ),
    value(
        "negative iterations",
        "SOLVER.MAX_ITER",
        -5,
        "SOLVER.MAX_ITER is -5; it must be a whole number from 1",
    ),
    value(
        "steps that fall",
        "SOLVER.STEPS",
        "(3, 1)",
        "SOLVER.STEPS is (3, 1); it must be numbers of iterations from 0 that rise",
    ),
    value(
        "an unknown schedule",
        "SOLVER.LR_SCHEDULER_NAME",
        "Cosine",
        "SOLVER.LR_SCHEDULER_NAME is 'Cosine'; it must be 'WarmupMultiStepLR', "
        "'WarmupCosineLR' or 'WarmupStepWithFixedGammaLR'",
    ),
    value(
        "an unknown warm-up",
        "SOLVER.WARMUP_METHOD",
        "quadratic",
        "SOLVER.WARMUP_METHOD is 'quadratic'; it must be 'linear' or 'constant'",
    ),
    value(
        "a negative warm-up",
        "SOLVER.WARMUP_ITERS",
        -1,
        "SOLVER.WARMUP_ITERS is -1; it must be a whole number from 0",
    ),
    value(
        "a negative weight decay",
        "SOLVER.WEIGHT_DECAY",
        -1.0,
        "SOLVER.WEIGHT_DECAY is -1.0; it must be a number from 0",
    ),
    value(
        "checkpoints at no period",
        "SOLVER.CHECKPOINT_PERIOD",
        0,
        "SOLVER.CHECKPOINT_PERIOD is 0; it must be a whole number from 1",
    ),
    value(
        "an unknown AMP type",
        "SOLVER.AMP.DTYPE",
        "half",
        "SOLVER.AMP.DTYPE is 'half'; known are auto, float16 and bfloat16",
    ),
    value(
        "an unknown answer to NaN",
        "SOLVER.ON_NONFINITE",
        "ignore",
        "SOLVER.ON_NONFINITE is 'ignore'; known are raise and skip",
    ),
    value(
        "no batch in a step",
        "SOLVER.ACCUMULATE_STEPS",
        0,
        "SOLVER.ACCUMULATE_STEPS is 0; it is the number of batches in one step of the "
        "optimiser, from 1",
    ),
    value(
        "an unknown clipping",
        "SOLVER.CLIP_GRADIENTS.ENABLED True SOLVER.CLIP_GRADIENTS.CLIP_TYPE",
        "all",
        "SOLVER.CLIP_GRADIENTS.CLIP_TYPE is 'all'; known are full_model, norm and value",
    ),
    value(
        "an unknown sampler",
        "DATALOADER.SAMPLER_TRAIN",
        "RandomSampler",
        "DATALOADER.SAMPLER_TRAIN is 'RandomSampler'; it must be 'TrainingSampler', "
        "'RepeatFactorTrainingSampler' or 'RandomSubsetTrainingSampler'",
    ),
    value(
        "a negative number of workers",
        "DATALOADER.NUM_WORKERS",
        -1,
        "DATALOADER.NUM_WORKERS is -1; it must be a whole number from 0",
    ),
    value(
        "an unknown image format",
        "INPUT.FORMAT",
        "CMYK2",
        "INPUT.FORMAT is 'CMYK2'; it must be 'BGR', 'RGB', 'L' or 'YUV-BT.601'",
    ),
    value(
        "no training size",
        "INPUT.MIN_SIZE_TRAIN",
        "()",
        "INPUT.MIN_SIZE_TRAIN is (); it must be one or more numbers of pixels, all above 0",
    ),
    value(
        "a negative training size",
        "INPUT.MIN_SIZE_TRAIN",
        "(-64,)",
        "INPUT.MIN_SIZE_TRAIN is (-64,); it must be one or more numbers of pixels, all above 0",
    ),
    value(
        "sides in quotation marks",
        "INPUT.MIN_SIZE_TRAIN",
        "('64',)",
        "INPUT.MIN_SIZE_TRAIN is ('64',); it must be one or more numbers of pixels, all above 0",
    ),
    value(
        "a seed that no generator takes",
        "SEED",
        2**40,
        "SEED is 1099511627776; it must be a whole number below 2147483648; -1 draws one",
    ),
    value(
        "an unknown way to sample sizes",
        "INPUT.MIN_SIZE_TRAIN_SAMPLING",
        "uniform",
        "INPUT.MIN_SIZE_TRAIN_SAMPLING is 'uniform'; it must be 'choice' or 'range'",
    ),
    value(
        "a range of three sizes",
        "INPUT.MIN_SIZE_TRAIN_SAMPLING",
        "range",
        "INPUT.MIN_SIZE_TRAIN is (64,) with INPUT.MIN_SIZE_TRAIN_SAMPLING range; it must "
        "be two numbers, the least and the greatest",
    ),
    value(
        "a longest side of zero",
        "INPUT.MAX_SIZE_TRAIN",
        0,
        "INPUT.MAX_SIZE_TRAIN is 0; it must be a whole number from 1",
    ),
    value(
        "a negative test size",
        "INPUT.MIN_SIZE_TEST",
        -1,
        "INPUT.MIN_SIZE_TEST is -1; it must be a whole number from 0",
    ),
    value(
        "an unknown flip",
        "INPUT.RANDOM_FLIP",
        "diagonal",
        "INPUT.RANDOM_FLIP is 'diagonal'; it must be 'horizontal', 'vertical' or 'none'",
    ),
    value(
        "an unknown mask format",
        "INPUT.MASK_FORMAT",
        "png",
        "INPUT.MASK_FORMAT is 'png'; it must be 'polygon' or 'bitmask'",
    ),
    value(
        "a moving average that keeps too much",
        "MODEL.EMA.DECAY",
        '2.0" MODEL.EMA.ENABLED "True',
        "MODEL.EMA.DECAY is 2.0; from 0 to below 1 is wanted",
    ),
    value(
        "a negative evaluation period",
        "TEST.EVAL_PERIOD",
        -3,
        "TEST.EVAL_PERIOD is -3; it must be a whole number from 0",
    ),
    value(
        "a metric that no evaluation gives",
        "TEST.BEST.METRIC",
        "segm/mAP",
        "TEST.BEST.METRIC is 'segm/mAP', which the evaluation does not give; the nearest names "
        "are: segm/AP, segm/APs, segm/APm",
    ),
    value(
        "the AP of a class that the data does not have",
        "TEST.BEST.METRIC",
        "segm/AP-rings",
        "TEST.BEST.METRIC is 'segm/AP-rings', which the evaluation does not give; the nearest "
        "names are: segm/AP-ring, ...",
    ),
    Case(
        "the metric of another model",
        "train_net.py {patch_net} {tiny} OUTPUT_DIR out TEST.BEST.METRIC segm/AP "
        "MODEL.WEIGHTS {sharpmask}",
        "TEST.BEST.METRIC is 'segm/AP', which the evaluation does not give; the nearest names "
        "are: ...",
    ),
    value(
        "shapes of size zero",
        "DATASETS.SHAPES.IMAGE_SIZE",
        0,
        "DATASETS.SHAPES.IMAGE_SIZE must be 48 to 1024, not 0.",
    ),
    value(
        "no training data",
        "DATASETS.TRAIN",
        "()",
        "DATASETS.TRAIN is empty; name a data set to train on",
    ),
    value(
        "an unknown data set",
        "DATASETS.TRAIN",
        "('shapes_trian',)",
        "data set 'shapes_trian' is not registered. Did you mean 'shapes_train' or "
        "'shapes_val'? Data in COCO format is registered with "
        "detectron2.data.datasets.register_coco_instances('shapes_trian', {}, "
        "'annotations.json', 'image_folder')",
    ),
    value(
        "one data set without a comma",
        "DATASETS.TRAIN",
        "shapes_train",
        "command line: DATASETS.TRAIN is shapes_train (text); it must be a list, such as "
        "('shapes_train',); in a shell it needs quotation marks, and one entry a comma: "
        "\"('a',)\"",
    ),
    value(
        "a test set that is unknown",
        "DATASETS.TEST",
        "('shapes_test',)",
        "data set 'shapes_test' is not registered. Did you mean 'shapes_train' or "
        "'shapes_val'? Data in COCO format is registered with "
        "detectron2.data.datasets.register_coco_instances('shapes_test', {}, "
        "'annotations.json', 'image_folder')",
    ),
    value(
        "an output folder that is a file",
        "OUTPUT_DIR",
        "taken",
        "OUTPUT_DIR is taken, which cannot be made (File exists); name another folder",
    ),
    value(
        "an output folder that may not be written",
        "OUTPUT_DIR",
        "/proc/instseg",
        "OUTPUT_DIR is /proc/instseg, which cannot be made (No such file or directory); "
        "name another folder",
    ),
    value(
        "no shapes",
        "DATASETS.SHAPES.NUM_TRAIN",
        0,
        "DATASETS.SHAPES.NUM_TRAIN must be 1 to 1000000, not 0.",
    ),
    Case(
        "a window that the trunk does not divide",
        "train_net.py {patch_net} {tiny} OUTPUT_DIR out MODEL.SHARP_MASK.WINDOW_SIZE 65",
        "MODEL.SHARP_MASK.WINDOW_SIZE is 65, but must be a multiple of 16, the stride of "
        "MODEL.SHARP_MASK.TRUNK.FEATURE res4",
    ),
    Case(
        "a scale of zero",
        "tools/make_proposals.py {patch_net} --dataset shapes_val --output out {tiny} "
        "MODEL.WEIGHTS {sharpmask} MODEL.SHARP_MASK.PROPOSALS.SCALES '(0.0,)' ",
        "MODEL.SHARP_MASK.PROPOSALS.SCALES is (0.0,); it must be numbers above 0",
    ),
    Case(
        "refinement of an unknown kind",
        "tools/analyze.py {patch_net} {tiny} MODEL.SHARP_MASK.REFINEMENT.NAME Sharp",
        "MODEL.SHARP_MASK.REFINEMENT.NAME is 'Sharp', which does not exist; known are "
        "Multiscale, Refinement",
    ),
    Case(
        "half precision on the CPU",
        "tools/demo.py {net} --input a.png --output out {tiny} MODEL.WEIGHTS {sparseinst}"
        " MODEL.INFERENCE.PRECISION float16",
        "MODEL.INFERENCE.PRECISION float16 needs a GPU, but MODEL.DEVICE is cpu; give "
        "MODEL.INFERENCE.PRECISION bfloat16",
        picture("a.png"),
    ),
    Case(
        "sizes of an analysis",
        "tools/analyze.py {net} {tiny} INPUT.MIN_SIZE_TEST -4",
        "INPUT.MIN_SIZE_TEST is -4; it must be a whole number from 0",
    ),
]
