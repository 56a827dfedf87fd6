"""Configs: Detectron2's, plus ours, with errors that name the nearest known key."""

import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml
from detectron2.config import CfgNode as CN
from detectron2.config import get_cfg as get_detectron2_cfg

from .config_values import check_values
from .errors import ConfigError, short_repr
from .families import config_value, model_families
from .model_zoo import find_config_file
from .yaml_guard import check_yaml_file

#: Types of values, in words.
TYPE_NAMES = {
    "str": "text", "int": "a whole number", "float": "a number", "bool": "True or False",
    "tuple": "a list", "list": "a list", "CfgNode": "a group of keys", "dict": "a group of keys",
}  # fmt: skip


def add_shared_config(cfg: CN) -> None:
    """Add the keys that all model families share, in place."""
    # "ADAMW" or "SGD".
    cfg.SOLVER.OPTIMIZER = "ADAMW"
    # The backbone's learning rate is BASE_LR times this.
    cfg.SOLVER.BACKBONE_MULTIPLIER = 1.0
    # The AMSGrad variant of AdamW.
    cfg.SOLVER.AMSGRAD = False
    # The learning rate in each interval between SOLVER.STEPS, as a factor of BASE_LR, one more than
    # there are steps: (1.0, 0.5, 0.1). Empty: GAMMA times less after each step.
    cfg.SOLVER.STEP_FACTORS = ()
    # The learning rate and schedule that this run's are compared with at its start, by the linear
    # rule. IMS_PER_BATCH 0: the published recipe of the model; -1: none.
    cfg.SOLVER.RECIPE = CN()
    cfg.SOLVER.RECIPE.IMS_PER_BATCH = 0
    # As the keys in SOLVER, for batches of so many; they count where IMS_PER_BATCH is above 0.
    cfg.SOLVER.RECIPE.BASE_LR = 0.0
    # 0: the recipe says nothing of the schedule.
    cfg.SOLVER.RECIPE.MAX_ITER = 0
    cfg.SOLVER.RECIPE.STEPS = ()
    cfg.SOLVER.RECIPE.WARMUP_ITERS = 0
    # What mixed precision (AMP.ENABLED) computes in: "float16", "bfloat16", or "auto", which is
    # float16 on a GPU and bfloat16 on the CPU.
    cfg.SOLVER.AMP.DTYPE = "auto"

    # So many batches of IMS_PER_BATCH images go into one step of the optimiser, as if they were one
    # batch: for large batches in little memory. MAX_ITER, STEPS and all periods count steps. See
    # instseg_d2/engine/accumulation.py for what is equal and what is not.
    cfg.SOLVER.ACCUMULATE_STEPS = 1

    # When a loss or a gradient is infinite or NaN: "raise" an error that names the images, or
    # "skip" the step and go on. Either way the step is saved as OUTPUT_DIR/nonfinite_ITERATION.pth,
    # for tools/replay_batch.py. Gradients that overflow while float16's scaler searches its scale
    # do not count.
    cfg.SOLVER.ON_NONFINITE = "raise"
    # So many steps are skipped in all, those before --resume included; one more raises.
    cfg.SOLVER.MAX_NONFINITE_SKIPS = 10

    # An exponential moving average of the weights. Where it is enabled, evaluations in the course
    # of the training, its checkpoints and model_final.pth have the average; a checkpoint also has
    # the weights that --resume goes on training.
    cfg.MODEL.EMA = CN()
    cfg.MODEL.EMA.ENABLED = False
    # Share of the average that each step keeps; the first steps keep less. About 1 / (1 - DECAY)
    # steps count: take a tenth of the training or less.
    cfg.MODEL.EMA.DECAY = 0.9998

    # The best checkpoint: after each evaluation (TEST.EVAL_PERIOD) the weights are saved as
    # model_best.pth if this metric, such as "segm/AP", is better than before. "": none is kept. Of
    # several test sets the name comes first: "shapes_val/segm/AP".
    cfg.TEST.BEST = CN()
    cfg.TEST.BEST.METRIC = ""
    # "max": a greater value is better; "min": a smaller one.
    cfg.TEST.BEST.MODE = "max"
    # Early stopping: the training ends, as at MAX_ITER, after so many evaluations in a row that did
    # not improve TEST.BEST.METRIC. 0: it does not.
    cfg.TEST.EARLY_STOPPING = CN()
    cfg.TEST.EARLY_STOPPING.PATIENCE = 0
    # An improvement is more than this, in units of the metric (AP is in percent).
    cfg.TEST.EARLY_STOPPING.MIN_DELTA = 0.0

    # `train_net.py --eval-only` on data in COCO's format notes each prediction in a file in
    # OUTPUT_DIR/inference until all is evaluated. After an interruption the same command goes on
    # from there, if weights, config, code and images are the same. False: neither.
    cfg.TEST.RESUME_INFERENCE = True

    # Ours: keep the weights of convolutions in the layout that CPUs, and GPUs in half precision,
    # are fastest in. Results differ by rounding only.
    cfg.MODEL.CHANNELS_LAST = False

    # Compute frozen batch norms as part of the convolutions before them, in training as well: the
    # same up to rounding; a step of SparseInst's is 1.2 times as fast (R-50, two CPU cores).
    cfg.MODEL.JOIN_FROZEN_NORMS = True
    # In training, compute what a ResNet has at stride 4 (stem and res2) once more in the backward
    # pass rather than keep it: the same result in .7 of the memory, for 5 % more time.
    cfg.MODEL.RECOMPUTE_FIRST_STAGES = True

    # What makes a trained model faster in the predictor and in `train_net.py --eval-only`. Not in
    # training, nor in the evaluations in its course. The first two change rounding alone. Gains are
    # those of SparseInst's network (R-50, 640 x 864) on two CPU cores.
    cfg.MODEL.INFERENCE = CN()
    # Make batch norms, whose statistics are fixed then, and other linear steps part of the
    # convolutions before them: 1.1 times as fast.
    cfg.MODEL.INFERENCE.FOLD_NORMS = True
    # As MODEL.CHANNELS_LAST, where that is faster: on the CPU (1.3 times as fast) and in half
    # precision.
    cfg.MODEL.INFERENCE.CHANNELS_LAST = True
    # What the network is computed in: "float32", "bfloat16" (2 times as fast on a CPU that has
    # instructions for it), or on a GPU also "float16".
    cfg.MODEL.INFERENCE.PRECISION = "float32"
    # Compile the network with torch.compile, which takes a minute or more for each input size; of
    # more than 8 sizes the rest run uncompiled. Meant for GPUs: on the CPU, where it needs a C++
    # compiler, it gains next to nothing.
    cfg.MODEL.INFERENCE.COMPILE = False
    # On a GPU: record the network once for each input size (up to 16 are kept, with memory of their
    # own), and replay it. For small batches, which wait for the CPU otherwise.
    cfg.MODEL.INFERENCE.CUDA_GRAPHS = False

    # Share of the images that are trained on, the same in every epoch, where
    # DATALOADER.SAMPLER_TRAIN is Detectron2's "RandomSubsetTrainingSampler"; above 0, at most 1.
    cfg.DATALOADER.RANDOM_SUBSET_RATIO = 1.0

    # How MODEL.WEIGHTS and checkpoints are read.
    cfg.MODEL.LOADING = CN()
    # Read a .pth, .pkl or .pyth file also if that runs code that the file brings along. Only for
    # files whose origin you trust.
    cfg.MODEL.LOADING.TRUST_FILE = False
    # Warn, in place of an error, when the file's backbone is another one than the model's: fewer
    # than 90 % of the tensors of either are in the other, or some differ in shape.
    cfg.MODEL.LOADING.ALLOW_PARTIAL = False
    # Check files whose names end in digits of their SHA-256 hash against them.
    cfg.MODEL.LOADING.VERIFY_HASH = True

    # The embedded data sets shapes_train and shapes_val.
    cfg.DATASETS.SHAPES = CN()
    cfg.DATASETS.SHAPES.NUM_TRAIN = 3000
    cfg.DATASETS.SHAPES.NUM_VAL = 200
    # Length of an image's shorter side in pixels.
    cfg.DATASETS.SHAPES.IMAGE_SIZE = 128
    cfg.DATASETS.SHAPES.SEED = 0

    # Your own data: annotations in COCO's format and the folder that the file names in them are
    # relative to. train_net.py has an option for each of the four (--train-json, ...), trains on
    # them as the data set own_train, evaluates on own_val, and sets the number of classes.
    cfg.DATASETS.OWN = CN()
    cfg.DATASETS.OWN.TRAIN_JSON = ""
    cfg.DATASETS.OWN.TRAIN_IMAGES = ""
    cfg.DATASETS.OWN.VAL_JSON = ""
    cfg.DATASETS.OWN.VAL_IMAGES = ""
    # The classes' names by their number in the model. Empty: those of the training data, by rising
    # category id; the config that a run saves has them.
    cfg.DATASETS.OWN.CLASSES = ()


def get_cfg() -> CN:
    """Detectron2's defaults and those of every model family."""
    cfg = get_detectron2_cfg()
    add_shared_config(cfg)
    for family in model_families():
        family.add_config(cfg)
    return cfg


def load_config(config_file: str | Path = "", overrides: Sequence[str] = ()) -> CN:
    """Defaults, then a config file, then overrides.

    Args:
        config_file: a path, or a name such as ``sparseinst/sparse_inst_r50_giam``; "" for none.
        overrides: ``[KEY, VALUE, KEY, VALUE, ...]``.

    Raises:
        ConfigError: the file is missing or damaged, a key is unknown, a value has the wrong type or
            nothing can work with it (see :func:`.config_values.check_values`).
    """
    cfg = get_cfg()
    if config_file:
        path = find_config_file(config_file)
        try:
            check_yaml_file(str(path))
            # Detectron2 would otherwise build any Python object that a YAML asks for.
            cfg.merge_from_file(str(path), allow_unsafe=False)
        except ConfigError:
            raise
        except yaml.constructor.ConstructorError as error:
            raise ConfigError(
                f"{path} is refused: {_yaml_problem(error)}. Configs hold plain "
                "values only, because building other objects can run code of the file's author; "
                "write the value out."
            ) from error
        except yaml.YAMLError as error:
            raise ConfigError(f"{path} is not valid YAML: {_yaml_problem(error)}") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path} is not text in UTF-8; save it as such") from error
        except FileNotFoundError as error:
            raise ConfigError(f"{path}: its _BASE_ file {error.filename} does not exist") from error
        except (RecursionError, MemoryError) as error:
            raise ConfigError(f"{path}: a value is nested too deeply") from error
        except (AttributeError, TypeError) as error:
            raise ConfigError(f"{path}: not a config: KEY: VALUE pairs are wanted") from error
        except (AssertionError, KeyError, ValueError) as error:
            raise _explain(error, str(path), cfg) from error
    late = [word for word in overrides[::2] if word.startswith("--")]
    if late:
        raise ConfigError(
            f"{late[0]} stands among the overrides: options come first, KEY VALUE ... at the end"
        )
    if len(overrides) % 2:
        raise ConfigError(
            "overrides come in pairs, KEY VALUE KEY VALUE ...; got an odd number: "
            + " ".join(overrides)
        )
    try:
        cfg.merge_from_list(list(overrides))
    except (RecursionError, MemoryError) as error:
        raise ConfigError("command line: a value is nested too deeply") from error
    except (AssertionError, KeyError, ValueError) as error:
        raise _explain(error, "command line", cfg) from error
    check_values(cfg)
    return cfg


def known_keys(cfg: CN, prefix: str = "") -> Iterator[str]:
    """Every dotted key of ``cfg``, nodes included."""
    for key, value in cfg.items():
        yield prefix + key
        if isinstance(value, CN):
            yield from known_keys(value, f"{prefix}{key}.")


def _explain(error: Exception, where: str, cfg: CN) -> ConfigError:
    """A ``ConfigError`` for what yacs raised, with the nearest known key where one is unknown."""
    message = str(error.args[0]) if error.args else str(error)
    if message.startswith("Type mismatch") and "\n" in message:  # it quotes a whole node
        node = message.rsplit(":", 1)[-1].strip()
        return ConfigError(f"{where}: {node} is a group of keys, not a value; give one of its keys")
    if message.startswith("Type mismatch"):
        return ConfigError(f"{where}: {_wrong_type(message, cfg)}")
    if not message.startswith("Non-existent"):
        return ConfigError(f"{where}: {message}")
    key = message.rsplit(":", 1)[-1].strip()
    keys = list(known_keys(cfg))
    nearest = difflib.get_close_matches(key, keys, n=1, cutoff=0.65)
    # A right last part in a wrong node is the commonest slip.
    last = key.rsplit(".", 1)[-1]
    nearest = nearest or [known for known in keys if known.rsplit(".", 1)[-1] == last][:1]
    hint = f"did you mean {nearest[0]}?" if nearest else "instseg_d2.config.get_cfg() has all keys"
    return ConfigError(f"{where}: unknown config key {key}; {hint}")


def _yaml_problem(error: yaml.YAMLError) -> str:
    """What is wrong and in which line, without the line itself."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return str(error)
    mark = error.problem_mark
    context = f"{error.context}, " if error.context else ""
    return f"line {mark.line + 1}, column {mark.column + 1}: {context}{error.problem}"


def _wrong_type(message: str, cfg: CN) -> str:
    """What yacs says of a value's type, in words and with an example."""
    key = message.rsplit(":", 1)[-1].strip()
    given = re.search(r"with values \(.* vs\. (.*)\) for config key", message, re.DOTALL)
    kinds = re.findall(r"<class '(\w+)'>", message)
    if given is None or len(kinds) != 2:
        return message
    default = config_value(cfg, key)
    text = f"{key} is {given[1]} ({TYPE_NAMES.get(kinds[1], kinds[1])}); it must be "
    text += f"{TYPE_NAMES.get(kinds[0], kinds[0])}, such as {short_repr(default)}"
    if isinstance(default, (list, tuple)):
        text += "; in a shell it needs quotation marks, and one entry a comma: \"('a',)\""
    return text
