"""Slips on the command line."""

from .case import Case
from .files import both, data_set, picture, text

CASES = [
    Case(
        "a config name with a typing error",
        "train_net.py --config-file sparseinst/sparse_inst_r50_gaim",
        "the config file sparseinst/sparse_inst_r50_gaim does not exist, nor is it a "
        "config's name; the nearest names are: sparseinst/sparse_inst_r50_giam, "
        "sparseinst/sparse_inst_r50vd_giam, sparseinst/sparse_inst_r101_giam",
    ),
    Case(
        "a config file that is not there",
        "train_net.py --config-file my/own.yaml",
        "the config file my/own.yaml does not exist, nor is it a config's name; the names"
        " are those of the files in ...configs",
    ),
    Case(
        "a key without a value",
        "train_net.py {net} SOLVER.MAX_ITER",
        "overrides come in pairs, KEY VALUE KEY VALUE ...; got an odd number: SOLVER.MAX_ITER",
    ),
    Case(
        "an option among the overrides",
        "train_net.py {net} SOLVER.MAX_ITER 9 --resume 1",
        "--resume stands among the overrides: options come first, KEY VALUE ... at the end",
    ),
    Case(
        "an unknown option",
        "train_net.py --confg-file x",
        "unrecognized arguments: --confg-file",
        status=2,
    ),
    Case(
        "more GPUs than there are",
        "train_net.py {net} --num-gpus 64 MODEL.DEVICE cuda",
        "MODEL.DEVICE is cuda, but PyTorch sees no CUDA device here; give MODEL.DEVICE "
        "cpu, or run `python -m instseg_d2.check_env` to find out why",
    ),
    Case(
        "a number of GPUs that is no number",
        "train_net.py {net} --num-gpus two",
        "argument --num-gpus: invalid int value: 'two'",
        status=2,
    ),
    Case(
        "annotations without images",
        "train_net.py {net} --train-json a.json MODEL.DEVICE cpu",
        "--train-json (DATASETS.OWN.TRAIN_JSON) is given without --train-images "
        "(DATASETS.OWN.TRAIN_IMAGES): an annotation file and the folder of its images go "
        "together",
    ),
    Case(
        "nothing to train on",
        "train_net.py {net} --val-json a.json --val-images images MODEL.DEVICE cpu",
        "--val-json (DATASETS.OWN.VAL_JSON) is given, but no data to train on: add "
        "--train-json and --train-images, or --eval-only",
    ),
    Case(
        "proposals of no config",
        "tools/make_proposals.py --dataset shapes_val --output out",
        "the following arguments are required: --config-file",
        status=2,
    ),
    Case(
        "a shard beyond the last",
        "tools/make_proposals.py {net} --dataset shapes_val --output out --shard 3/2",
        "argument --shard: '3/2' is not of the form I/N with I from 1 to N",
        status=2,
    ),
    Case(
        "proposals of a model that makes none",
        "tools/make_proposals.py {net} --dataset shapes_val --output out {tiny} "
        "MODEL.WEIGHTS {sparseinst}",
        "MODEL.META_ARCHITECTURE SparseInst does not answer with proposals; DeepMask, "
        "SharpMask and Detectron2's ProposalNetwork do",
    ),
    Case(
        "limits that are no numbers",
        "tools/evaluate_proposals.py --proposals a.pkl --dataset shapes_val --limits 10,many",
        "argument --limits: 'many' is not a whole number above 0; give some, such as 10,100,1000",
        status=2,
    ),
    Case(
        "a limit of no proposals",
        "tools/evaluate_proposals.py --proposals a.pkl --dataset shapes_val --limits 0",
        "argument --limits: '0' is not a whole number above 0; give some, such as 10,100,1000",
        status=2,
    ),
    Case(
        "an unknown command",
        "tools/proposal_files.py chek a.pkl",
        "argument COMMAND: invalid choice: 'chek' ...",
        status=2,
    ),
    Case(
        "a file that would be overwritten",
        "tools/proposal_files.py random boxes.pkl --annotations annotations.json",
        "boxes.pkl exists; give another name, or --overwrite",
        both(data_set(), text("boxes.pkl", "precious")),
    ),
    Case(
        "proposals in an unknown format",
        "tools/proposal_files.py random boxes.txt --annotations annotations.json",
        "boxes.txt: proposals are written as .pkl (boxes) or .json (masks, or boxes "
        "without); give a name that ends so.",
        data_set(),
    ),
    Case(
        "a folder without parts",
        "tools/proposal_files.py merge .",
        ". has no folder NAME_parts; give the --output of tools/make_proposals.py",
    ),
    Case(
        "conversion onto a file that exists",
        "tools/convert_checkpoint.py {sparseinst} there.pth",
        "there.pth exists. Give another name, or --overwrite to replace it.",
        text("there.pth", "precious"),
    ),
    Case(
        "conversion to an unknown format",
        "tools/convert_checkpoint.py {sparseinst} there.onnx",
        "there.onnx: the suffix says what to write; give a name that ends in "
        ".safetensors, .pth or .pkl.",
    ),
    Case(
        "a part that the model lacks",
        "tools/convert_checkpoint.py {sparseinst} there.pth --part bakcbone",
        "...sparseinst.pth: --part bakcbone: no name begins with 'bakcbone.'. The parts "
        "are ['backbone', 'decoder', 'encoder'].",
    ),
    Case(
        "a check without images",
        "tools/check_dataset.py --json annotations.json",
        "--json needs --images DIR, or --no-images",
        data_set(),
        status=2,
    ),
    Case(
        "an unknown code",
        "tools/check_dataset.py --json a.json --no-images --ignore all",
        "argument --ignore: invalid choice: 'all' ...",
        status=2,
    ),
    Case(
        "nothing to look at",
        "tools/demo.py {net} --output out",
        "nothing to look at: give --input or --webcam",
        status=2,
    ),
    Case(
        "a threshold in percent",
        "tools/demo.py {net} --input a.png --output out --score-threshold 40",
        "argument --score-threshold: '40' is not a number from 0 to 1",
        status=2,
    ),
    Case(
        "an output folder that is a file",
        "tools/demo.py {net} --input a.png --output out {tiny} MODEL.WEIGHTS {sparseinst}",
        "--output out is a file; it must name a folder",
        both(picture("a.png"), text("out", "a file")),
    ),
    Case(
        "a report of nothing",
        "tools/report.py --output report.html",
        "give --run DIR or --results FILE",
        status=2,
    ),
    Case(
        "an empty name of the output folder",
        "train_net.py {net} {tiny} OUTPUT_DIR ''",
        "OUTPUT_DIR is empty; name a folder",
    ),
    Case(
        "a report in the place of the annotations",
        "tools/report.py --json a.json --results r.json --output a.json",
        "--output a.json: the report is a page; give a name that ends in .html",
        text("a.json", "{}"),
        status=2,
    ),
    Case(
        "a report of a run that is not there",
        "tools/report.py --run outptu",
        "--run outptu: there is no such folder; give the OUTPUT_DIR of a run",
    ),
    Case(
        "a report of a run without results",
        "tools/report.py --run .",
        ". has no inference/coco_instances_results.json. Evaluate first: train_net.py "
        "--config-file CONFIG --eval-only MODEL.WEIGHTS FILE OUTPUT_DIR .",
    ),
    Case(
        "an export to an unknown format",
        "tools/export.py {net} --format tensorrt --output model.plan",
        "argument --format: invalid choice: 'tensorrt' ...",
        status=2,
    ),
    Case(
        "a model of the wrong family to draw patches of",
        "tools/show_patches.py {net} --output patches.png {tiny}",
        "MODEL.META_ARCHITECTURE is 'SparseInst'; patches are of DeepMask and SharpMask",
    ),
    Case(
        "the size of a patch model",
        "tools/analyze.py {patch_net} --size 64 64 {tiny}",
        "SharpMask is measured on a patch: give MODEL.SHARP_MASK.WINDOW_SIZE, not --size",
    ),
    Case(
        "an analysis of nothing",
        "tools/analyze.py",
        "one of the arguments --config-file --zoo-table is required",
        status=2,
    ),
    Case(
        "a page without a table",
        "tools/analyze.py --zoo-table page.md",
        "page.md: no table with links to configs and the columns 'params (M)' and 'GFLOPs'",
        text("page.md", "# Models\n"),
    ),
    Case(
        "benchmark of unknown precision",
        "tools/benchmark.py {net} --precision half",
        "argument --precision: invalid choice: 'half' ...",
        status=2,
    ),
    Case(
        "a benchmark of an unknown config",
        "tools/benchmark.py --config-file sparse_inst_r51",
        "the config file sparse_inst_r51 does not exist, nor is it a config's name; the "
        "nearest names are: sparseinst/sparse_inst_r50_giam, "
        "sparseinst/sparse_inst_r50_base, sparseinst/sparse_inst_r101_giam",
    ),
    Case(
        "benchmark of a GPU that is not there",
        "tools/benchmark.py {net} --device cuda",
        "MODEL.DEVICE is cuda, but PyTorch sees no CUDA device here; give MODEL.DEVICE "
        "cpu, or run `python -m instseg_d2.check_env` to find out why",
    ),
    Case(
        "recall of no images",
        "tools/benchmark_recall.py --images 0",
        "argument --images: '0' is not a whole number above 0",
        status=2,
    ),
    Case(
        "no patches",
        "tools/benchmark_patches.py --patches none",
        "argument --patches: 'none' is not a whole number above 0",
        status=2,
    ),
    Case(
        "no proposals",
        "tools/time_proposals.py --num 0",
        "argument --num: '0' is not a whole number above 0",
        status=2,
    ),
    Case(
        "a quickstart on two test sets",
        "tools/quickstart.py {tiny} DATASETS.TEST \"('shapes_val','shapes_train')\"",
        "DATASETS.TEST must name one data set here, not ('shapes_val', 'shapes_train')",
    ),
    Case(
        "an unknown key in the quickstart",
        "tools/quickstart_sharpmask.py SOLVER.MAX_ITERS 5",
        "command line: unknown config key SOLVER.MAX_ITERS; did you mean SOLVER.MAX_ITER?",
    ),
    Case(
        "an unknown key in the proposals' quickstart",
        "tools/quickstart_proposals.py SOLVER.MAX_ITERS 5",
        "command line: unknown config key SOLVER.MAX_ITERS; did you mean SOLVER.MAX_ITER?",
    ),
    Case(
        "no weights to draw with",
        "tools/draw_how_it_works.py",
        "give --sparseinst, --sharpmask or both",
        status=2,
    ),
]
