"""Checkpoints that cannot be used, and those that can, for all cases."""

from __future__ import annotations

from pathlib import Path

import torch

from instseg_d2.config import load_config
from instseg_d2.modeling import build_model

from .case import Case
from .files import Write, both, picture, raw, text

CONFIGS = {
    "sparseinst": ("net", "sparseinst/sparse_inst_r50_giam"),
    "sharpmask": ("patch_net", "sharpmask/sharpmask_r50"),
}
"""By the word that stands for a checkpoint, the word for its config, and the config."""

EVAL = "train_net.py --eval-only {net} {tiny} OUTPUT_DIR out MODEL.WEIGHTS "
TRAIN = EVAL.replace("--eval-only ", "")


def write_shared(folder: Path, overrides: list[str]) -> dict[str, str]:
    """What the words stand for: checkpoints of tiny models with random weights, their configs."""
    words = {}
    for word, (config_word, config) in CONFIGS.items():
        model = build_model(load_config(config, overrides))
        words[word] = str(folder / f"{word}.pth")
        torch.save({"model": model.state_dict()}, words[word])
        words[config_word] = f"--config-file {config}"
    return words


def saved(content: object) -> Write:
    """Writes ``model.pth``."""
    return lambda folder: torch.save(content, folder / "model.pth")


CASES = [
    Case(
        "weights that are not there",
        EVAL + "model.pth",
        "MODEL.WEIGHTS model.pth: there is no such file. Correct the path (...model.pth),"
        " or give MODEL.WEIGHTS '' to train from scratch.",
    ),
    Case(
        "no weights",
        EVAL + "''",
        "MODEL.WEIGHTS is empty, so the model is untrained: name a checkpoint, for "
        "example MODEL.WEIGHTS output/model_final.pth.",
    ),
    Case(
        "a folder in place of weights", EVAL + ".", "MODEL.WEIGHTS .: it is a folder, not a file."
    ),
    Case(
        "weights that are no checkpoint",
        EVAL + "model.pth",
        "MODEL.WEIGHTS: model.pth cannot be read as weights: damaged, incomplete or of "
        "another kind (UnpicklingError: it refers to a value that it has not). Delete it,"
        " and fetch or copy it again.",
        text("model.pth", "hello"),
    ),
    Case(
        "an empty file",
        EVAL + "model.pth",
        "MODEL.WEIGHTS: model.pth cannot be read as weights: the file is empty. Delete "
        "it, and fetch or copy it again.",
        raw("model.pth", b""),
    ),
    Case(
        "an unknown kind of file",
        EVAL + "model.h5",
        "MODEL.WEIGHTS: model.h5 cannot be read as weights: damaged, incomplete or of "
        "another kind (UnpicklingError: it refers to a value that it has not). Delete it,"
        " and fetch or copy it again.",
        text("model.h5", "hello"),
    ),
    Case(
        "weights that run code",
        EVAL + "model.pkl",
        "MODEL.WEIGHTS: model.pkl is refused: it holds 'os.system'. Only numbers, text "
        "and plain containers are read, because reading other things can run code of the "
        "file's author. If you know the file, MODEL.LOADING.TRUST_FILE True reads it with"
        " that code; only do so if you trust where it comes from.",
        raw("model.pkl", b"cos\nsystem\n(S'touch x'\ntR."),
    ),
    Case(
        "weights of another model",
        EVAL + "{sharpmask}",
        "MODEL.WEIGHTS ...sharpmask.pth: it does not fit this model: of the 265 tensors "
        "of 'backbone', 215 were found in it. ...Give weights of the same kind of model, "
        "MODEL.WEIGHTS '' to train from scratch, or MODEL.LOADING.ALLOW_PARTIAL True to "
        "go on with what was found.",
    ),
    Case(
        "no tensors",
        EVAL + "model.pth",
        "MODEL.WEIGHTS model.pth: it does not fit this model: of the 265 tensors of "
        "'backbone', 0 were found in it. ...Give weights of the same kind of model, "
        "MODEL.WEIGHTS '' to train from scratch, or MODEL.LOADING.ALLOW_PARTIAL True to "
        "go on with what was found.",
        saved({"model": {}}),
    ),
    Case(
        "tensors of other names",
        EVAL + "model.pth",
        "MODEL.WEIGHTS model.pth: it does not fit this model: of the 265 tensors of "
        "'backbone', 0 were found in it. ...Give weights of the same kind of model, "
        "MODEL.WEIGHTS '' to train from scratch, or MODEL.LOADING.ALLOW_PARTIAL True to "
        "go on with what was found.",
        saved({"model": {"conv.weight": torch.zeros(3, 3)}}),
    ),
    Case(
        "a number in place of tensors",
        EVAL + "model.pth",
        "MODEL.WEIGHTS: model.pth holds a int, expected a dict of weights by name.",
        saved(5),
    ),
    Case(
        "another number of classes",
        EVAL
        + "{sparseinst} MODEL.SPARSE_INST.DECODER.NUM_CLASSES 4 DATASETS.TEST \"('shapes_val',)\"",
        "data set 'shapes_val' has 6 classes (disc, square, triangle, star, ring, ...), "
        "but the model is configured for 4: set MODEL.SPARSE_INST.DECODER.NUM_CLASSES 6 "
        "in the config file or at the end of the command line.",
    ),
    Case(
        "to train from weights that are not there",
        TRAIN + "model.pth",
        "MODEL.WEIGHTS model.pth: there is no such file. Correct the path (...model.pth),"
        " or give MODEL.WEIGHTS '' to train from scratch.",
    ),
    Case(
        "to train from another backbone",
        TRAIN + "{sparseinst} MODEL.RESNETS.WIDTH_PER_GROUP 8",
        "MODEL.WEIGHTS ...sparseinst.pth: it does not fit this model: of the 265 tensors "
        "of 'backbone', 89 were found in it and 176 in another shape. ...Give weights of "
        "the same kind of model, MODEL.WEIGHTS '' to train from scratch, or "
        "MODEL.LOADING.ALLOW_PARTIAL True to go on with what was found.",
    ),
    Case(
        "an address that nobody answers",
        TRAIN + "http://localhost:1/model.pth",
        "MODEL.WEIGHTS: fetching http://localhost:1/model.pth failed (...). Without "
        "network, fetch it elsewhere and give MODEL.WEIGHTS /path/to/model.pth, or put it"
        " at; /root/.torch/iopath_cache/model.pth; where Detectron2 looks before it "
        "fetches anything (below $FVCORE_CACHE, or ~/.torch/iopath_cache where that is "
        "not set).",
    ),
    Case(
        "an address of an unknown kind",
        TRAIN + "detectron://model.pkl",
        "MODEL.WEIGHTS detectron://model.pkl: there is no such file. Correct the path "
        "(...detectron:/model.pkl), or give MODEL.WEIGHTS '' to train from scratch.",
    ),
    Case(
        "refinement without a trained trunk",
        "train_net.py {patch_net} {tiny} OUTPUT_DIR out",
        "MODEL.WEIGHTS is empty. MODEL.SHARP_MASK.FREEZE_FEEDFORWARD trains the "
        "refinement on top of a trained DeepMask: train one first "
        "(configs/sharpmask/deepmask_r50.yaml), with the backbone, WINDOW_SIZE, TRUNK and"
        " HEAD of this config, and give its model_final.pth as MODEL.WEIGHTS.",
    ),
    Case(
        "resuming from a broken checkpoint",
        TRAIN.replace("train_net.py", "train_net.py --resume") + "''",
        "The checkpoint to resume from: out/model_0000001.pth cannot be read as weights: "
        "damaged, incomplete or of another kind (UnpicklingError: cut off, or no pickle: "
        "b'' is no opcode). Delete it, and fetch or copy it again. out/last_checkpoint "
        "names it. Write the name of another checkpoint into that file to resume from "
        "that one, or start without --resume.",
        both(
            text("out/last_checkpoint", "model_0000001.pth"),
            text("out/model_0000001.pth", "cut"),
        ),
    ),
    Case(
        "the demo without weights",
        "tools/demo.py {net} --input a.png --output out {tiny}",
        "MODEL.WEIGHTS is '': name a trained checkpoint at the end of the command, for "
        "example MODEL.WEIGHTS output/model_final.pth",
        picture("a.png"),
    ),
    Case(
        "the demo with weights that are not there",
        "tools/demo.py {net} --input a.png --output out {tiny} MODEL.WEIGHTS gone.pth",
        "MODEL.WEIGHTS gone.pth: there is no such file. Correct the path (...gone.pth), "
        "or give MODEL.WEIGHTS '' to train from scratch.",
        picture("a.png"),
    ),
    Case(
        "proposals without weights",
        "tools/make_proposals.py {patch_net} --dataset shapes_val --output out {tiny}",
        "MODEL.WEIGHTS is empty: name a checkpoint, for example MODEL.WEIGHTS "
        "output/model_final.pth",
    ),
    Case(
        "proposals with weights of another model",
        "tools/make_proposals.py {patch_net} --dataset shapes_val --output out {tiny} "
        "MODEL.WEIGHTS {sparseinst}",
        "MODEL.WEIGHTS: 54 of the model's tensors are not in the file or have another "
        "shape there, for example head.reduce.0.weight, head.reduce.0.bias, "
        "head.encode.weight. Give the config that the weights were trained with.",
    ),
    Case(
        "conversion of a file that is not there",
        "tools/convert_checkpoint.py gone.pth new.pth",
        "gone.pth: there is no such file.",
    ),
    Case(
        "conversion of no checkpoint",
        "tools/convert_checkpoint.py notes.txt new.pth",
        "notes.txt cannot be read as weights: damaged, incomplete or of another kind "
        "(UnpicklingError: it refers to a value that it has not). Delete it, and fetch or"
        " copy it again.",
        text("notes.txt", "hello"),
    ),
    Case(
        "conversion of Torch7 nonsense",
        "tools/convert_checkpoint.py model.t7 new.pth",
        "model.t7 cannot be read as a file of Torch7: a number of 4 bytes begins where 1 "
        "are left, at byte 4. It is damaged, incomplete, of another kind or from a system"
        " that is not 64-bit. Fetch or copy it again; what Torch7 itself can read, its "
        "torch.save writes anew.",
        raw("model.t7", b"\4\0\0\0\1"),
    ),
    Case(
        "conversion of code",
        "tools/convert_checkpoint.py model.pkl new.pth",
        "model.pkl is refused: it holds 'os.system'. Only numbers, text and plain "
        "containers are read, because reading other things can run code of the file's "
        "author. If you know the file, --trust reads it with that code; only do so if you"
        " trust where it comes from.",
        raw("model.pkl", b"cos\nsystem\n(S'touch x'\ntR."),
    ),
    Case(
        "export without weights",
        "tools/export.py {net} --format torchscript --output model.pt {tiny}",
        "MODEL.WEIGHTS is empty: name a checkpoint, for example MODEL.WEIGHTS "
        "output/model_final.pth",
    ),
    Case(
        "export of weights that are not there",
        "tools/export.py {net} --format torchscript --output model.pt {tiny} "
        "MODEL.WEIGHTS gone.pth",
        "MODEL.WEIGHTS gone.pth: there is no such file. Correct the path (...gone.pth), "
        "or give MODEL.WEIGHTS '' to train from scratch.",
    ),
    Case(
        "replay of a file that is not there",
        "tools/replay_batch.py nonfinite_0000001.pth",
        "nonfinite_0000001.pth does not exist; check the path",
    ),
    Case(
        "replay of a checkpoint",
        "tools/replay_batch.py {sparseinst}",
        "...sparseinst.pth is no file of a training step (see SOLVER.ON_NONFINITE), or damaged",
    ),
    Case(
        "replay of no checkpoint",
        "tools/replay_batch.py batch.pth",
        "batch.pth is no file of a training step (see SOLVER.ON_NONFINITE), or damaged",
        text("batch.pth", "hello"),
    ),
    Case(
        "patches without weights",
        "tools/show_patches.py {patch_net} --output patches.png {tiny}",
        "MODEL.WEIGHTS is empty, so the model is untrained: name a checkpoint, for "
        "example MODEL.WEIGHTS output/model_final.pth.",
    ),
    Case(
        "drawing with weights that are not there",
        "tools/draw_how_it_works.py --sparseinst gone.pth --output out",
        "MODEL.WEIGHTS gone.pth: there is no such file. Correct the path (...gone.pth), "
        "or give MODEL.WEIGHTS '' to train from scratch.",
    ),
    Case(
        "drawing with weights of another model",
        "tools/draw_how_it_works.py --sparseinst {sparseinst} --output out",
        "MODEL.WEIGHTS ...sparseinst.pth: it does not fit this model: of the 215 tensors "
        "of 'backbone', 0 were found in it and 215 in another shape. ...Give weights of "
        "the same kind of model, MODEL.WEIGHTS '' to train from scratch, or "
        "MODEL.LOADING.ALLOW_PARTIAL True to go on with what was found.",
    ),
    Case(
        "quickstart proposals with weights that are not there",
        "tools/quickstart_proposals.py --weights gone.pth --output out",
        "--weights gone.pth does not exist; check the path",
    ),
]
