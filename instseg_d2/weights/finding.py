"""Whether a weights file is there, and what to do if it is not."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urlparse

from iopath.common.file_io import PathManager
from torch import nn

from ..errors import WeightsError
from ..remote_files import url_problem
from .sources import advice_for_absent_file, advice_for_failed_download


def require_file(path: str, path_manager: PathManager, backbone: Any) -> None:
    """See that there is a file, or fetch it.

    Args:
        path: local file or URL; its query is of no account.
        path_manager: what fetches it.
        backbone: of the model, for which the file is to have weights.

    Raises:
        WeightsError: there is none, or it cannot be fetched.
    """
    url = urlparse(path)._replace(query="").geturl()
    if (problem := url_problem(url)) is not None:
        raise WeightsError(problem)
    try:
        local = path_manager.get_local_path(url)
    except Exception as error:  # from the network, the file system or Detectron2's catalogue
        address, advice = advice_for_failed_download(url)
        raise WeightsError(
            f"fetching {address} failed ({type(error).__name__}: {error}). {advice}"
        ) from error
    if os.path.isfile(local):
        return
    if os.path.isdir(local):
        raise WeightsError("it is a folder, not a file.")
    advice = advice_for_absent_file(url, _in_words(backbone))
    raise WeightsError(f"there is no such file. {advice}")


def _in_words(backbone: Any) -> str:
    if not isinstance(backbone, nn.Module):
        return "absent: the model has none"
    tensors = list(backbone.state_dict().items())[:2]
    examples = ", ".join(f"{name} {tuple(value.shape)}" for name, value in tensors)
    return f"a {type(backbone).__name__} with tensors such as {examples}"
