"""Files whose names end in the first digits of their hash, and the check against them.

Two customs are known: ``resnet50d_ra2-464e36ba.pth`` (torch hub, timm: a dash and 8 or more digits)
and ``name_2b7d68.pth`` (an underscore and exactly 6 digits, as the authors of SparseInst do), both
of SHA-256. Detectron2's ``model_final_f10217.pkl`` looks like the second, but nothing says which
digest that is.
"""

import hashlib
import logging
import re
from pathlib import Path

from instseg_d2.errors import WeightsError
from instseg_d2.weights.file_errors import why_unreadable

_CHUNK_BYTES = 1 << 20
_IN_NAME = re.compile(r"(?:-([0-9a-f]{8,64})|_([0-9a-f]{6}))(?:\.[A-Za-z]+)*")
_DETECTRON2_ID = re.compile(r"model_final_[0-9a-f]{6}\.pkl")

logger = logging.getLogger(__name__)


def hash_in_name(path: str) -> str | None:
    """The digits at the end of a file's name that are meant as its hash, or None.

    Digits alone are dates or iteration numbers (``model_0004999.pth``), letters alone are words;
    only a mixture is taken for a hash.
    """
    name = Path(path).name
    # From the last dash or underscore on, so that a folder or a first part cannot match.
    found = _IN_NAME.fullmatch(name, max(name.rfind("-"), name.rfind("_"), 0))
    if found is None:
        return None
    digits = found.group(1) or found.group(2)
    mixed = any(digit.isdigit() for digit in digits) and any(digit.isalpha() for digit in digits)
    return digits if mixed else None


def verify_hash_in_name(path: str) -> None:
    """Compare a file with the hash in its name, if it has one.

    Args:
        path: an existing local file. It is read in pieces.

    Raises:
        WeightsError: the file has another hash. For the names of Detectron2's model zoo, whose
            digits may mean something else, that is only a warning.
    """
    expected = hash_in_name(path)
    if expected is None:
        return
    of_detectron2 = bool(_DETECTRON2_ID.fullmatch(Path(path).name))
    digests = [_digest(path, "sha256")]
    if of_detectron2:
        digests.append(_digest(path, "md5"))
    if any(digest.startswith(expected) for digest in digests):
        logger.info("%s has the hash in its name (%s)", path, expected)
    elif of_detectron2:
        logger.warning(
            "%s: the digits %s in its name are not those of its SHA-256 or MD5 hash; it may be "
            "damaged",
            path,
            expected,
        )
    else:
        reason = why_unreadable(path) or "the file is damaged or was changed"
        raise WeightsError(
            f"{path}: its name says that its SHA-256 hash starts with {expected}, but it starts "
            f"with {digests[0][: len(expected)]}: {reason}. Delete it and fetch it again; or, if "
            "those digits are no hash, rename it or give MODEL.LOADING.VERIFY_HASH False."
        )


def _digest(path: str, algorithm: str) -> str:
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
