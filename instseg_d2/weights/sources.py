"""Where to get the weights files that configs name, and where to put them."""

import json
import os
import shlex
from dataclasses import dataclass
from urllib.parse import urlparse

from detectron2.utils.file_io import Detectron2Handler
from iopath.common.file_io import get_cache_dir

PRETRAINED_FOLDER = "pretrained_models"
"""Where the configs of SparseInst's authors look for ImageNet weights."""

_TIMM = "https://github.com/huggingface/pytorch-image-models/releases/download"
_PVT = "https://github.com/whai362/PVT/releases/download/v2"


@dataclass(frozen=True)
class WeightsSource:
    """Where an ImageNet file of a known name is from.

    Attributes:
        author: whose release it is.
        url: the address of the file.
        timm_model: name with which timm makes the same model, with weights of the same kind.
    """

    author: str
    url: str
    timm_model: str


KNOWN_SOURCES = {
    name: WeightsSource(author, f"{release}/{name}", timm_model)
    for author, release, name, timm_model in (
        ("timm", f"{_TIMM}/v0.1-weights", "resnet50d_ra2-464e36ba.pth", "resnet50d.ra2_in1k"),
        ("timm", f"{_TIMM}/v0.1-weights", "resnet101d_ra2-2803ffab.pth", "resnet101d.ra2_in1k"),
        (
            "timm",
            f"{_TIMM}/v0.1-weights",
            "cspdarknet53_ra_256-d05c7c21.pth",
            "cspdarknet53.ra_in1k",
        ),
        (
            "timm",
            f"{_TIMM}/v0.1-tpu-weights",
            "darknet53_256_c2ns-3aeff817.pth",
            "darknet53.c2ns_in1k",
        ),
        *(
            ("the authors of PVT", _PVT, f"pvt_v2_{size}.pth", f"pvt_v2_{size}.in1k")
            for size in ("b0", "b1", "b2", "b2_li", "b3", "b4", "b5")
        ),
    )
}
"""File name -> where it is from."""

TORCHVISION_URLS = {
    name: f"https://download.pytorch.org/models/{name}"
    for name in ("vgg11-8a719046.pth", "vgg16-397923af.pth")
}
"""Name of a file of torchvision -> where it is from."""


def advice_for_absent_file(path: str, backbone: str) -> str:
    """What to do about a local file that is not there.

    Args:
        path: as it was asked for.
        backbone: in words, what the model's backbone is.
    """
    from_scratch = "MODEL.WEIGHTS '' trains from scratch."
    source = KNOWN_SOURCES.get(os.path.basename(path))
    place = os.path.abspath(path)
    if source is not None:
        copy = os.path.join(os.path.dirname(path), f"{source.timm_model}.pth")
        return (
            f"It is a release of {source.author}. Fetch\n  {source.url}\nand put it at\n  {place}\n"
            f"Or let timm (pip install timm) fetch the weights\n"
            f"  {timm_command(source.timm_model, os.path.abspath(copy))}\n"
            f"and give MODEL.WEIGHTS {copy}\n{from_scratch}"
        )
    url = TORCHVISION_URLS.get(os.path.basename(path))
    if url is not None:
        return (
            f"It is a release of torchvision. Give MODEL.WEIGHTS\n  {url}\nwhich is fetched for "
            f"you, or fetch it yourself and put it at\n  {place}\n{from_scratch}"
        )
    if PRETRAINED_FOLDER in path.replace("\\", "/").split("/")[:-1]:
        return (
            f"Put the weights of the backbone at\n  {place}\n"
            f"The backbone is {backbone}; ImageNet files for it from Detectron2, torchvision, timm "
            "or its authors are read, and any checkpoint with its tensors. For a plain ResNet you "
            "can give detectron2://ImageNetPretrained/torchvision/R-50.pkl (or R-101.pkl) instead. "
            f"{from_scratch}"
        )
    return f"Correct the path ({place}), or give MODEL.WEIGHTS '' to train from scratch."


def timm_command(timm_model: str, path: str) -> str:
    """A shell command that fetches weights with timm and saves them at ``path``.

    The name of the file must have no hash in it: the file is not the one that timm's authors made.
    """
    model, file, folder = (json.dumps(text) for text in (timm_model, path, os.path.dirname(path)))
    code = (
        f"import os, timm, torch; os.makedirs({folder}, exist_ok=True); "
        f"torch.save(timm.create_model({model}, pretrained=True).state_dict(), {file})"
    )
    return f"python -c {shlex.quote(code)}"


def advice_for_failed_download(url: str) -> tuple[str, str]:
    """The address behind a URL, and what to do when it cannot be fetched.

    Args:
        url: as it was asked for, without a query; may start with ``detectron2://``.
    """
    address = url.replace(Detectron2Handler.PREFIX, Detectron2Handler.S3_DETECTRON2_PREFIX, 1)
    name = address.rsplit("/", 1)[-1]
    advice = f"Without network, fetch it elsewhere and give MODEL.WEIGHTS /path/to/{name}"
    if address.startswith(("http://", "https://")):
        cached = os.path.join(get_cache_dir(), urlparse(address).path.lstrip("/"))
        advice += (
            f", or put it at\n  {cached}\nwhere Detectron2 looks before it fetches anything (below "
            "$FVCORE_CACHE, or ~/.torch/iopath_cache where that is not set)"
        )
    return address, f"{advice}."
