"""A ResNet as Caffe2's files hold it: its own names, batch norms folded into scale and shift."""

import re

import torch

EPSILON = 1e-5


def caffe2_blobs(native):
    """The blobs of a backbone, as arrays by name.

    Args:
        native: its weights under Detectron2's names, with statistics.
    """
    blobs = {}
    for name, value in native.items():
        module, _, kind = name.rpartition(".")
        if kind == "num_batches_tracked" or kind.startswith("running_"):
            continue
        if module.endswith(".norm"):
            mean, variance = (native[f"{module}.running_{k}"] for k in ("mean", "var"))
            scale = native[f"{module}.weight"] / (variance + EPSILON).sqrt()
            value = scale if kind == "weight" else value - mean * scale
        blobs[_caffe2_name(module, kind)] = value.numpy()
    blobs["conv1_b"] = torch.zeros(len(native["stem.conv1.weight"])).numpy()
    blobs["fc1000_w"] = torch.zeros(1000, 4).numpy()
    blobs["fc1000_b"] = torch.zeros(1000).numpy()
    return blobs


def _caffe2_name(module, kind):
    layer = module.removesuffix(".norm")
    if layer == "stem.conv1":
        name = "conv1" if layer == module else "res_conv1"
    else:
        stage, block, conv = re.fullmatch(r"(res\d)\.(\d+)\.(\w+)", layer).groups()
        branch = {"conv1": "2a", "conv2": "2b", "conv3": "2c", "shortcut": "1"}[conv]
        name = f"{stage}_{block}_branch{branch}"
    if layer != module:
        return f"{name}_bn_{'s' if kind == 'weight' else 'b'}"
    return f"{name}_{kind[0]}"
