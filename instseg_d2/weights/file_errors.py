"""Why a file cannot be read as weights, in words for the user."""

from __future__ import annotations

from instseg_d2.errors import WeightsError


def why_unreadable(path: str) -> str | None:
    """The usual reasons why a file is no weights file, told by its first bytes; None for none."""
    with open(path, "rb") as file:
        start = file.read(64)
    if not start:
        return "the file is empty"
    if not any(start):
        return "it begins with zeros, as the place does that a download or copy has not filled yet"
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return "it is a web page, perhaps the one in front of the download"
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer; run `git lfs pull`"
    return None


def damaged(path: str, error: Exception) -> WeightsError:
    """The error for a file that cannot be read, with the likely reason."""
    reason = why_unreadable(path)
    if reason is None:
        # Of torch's long messages only the core: the rest advises what would be unsafe here.
        core = str(error).split("WeightsUnpickler error:")[-1].strip().split("\n")[0].split(". ")[0]
        reason = f"damaged, incomplete or of another kind ({type(error).__name__}: {core})"
    return cannot_be_read(path, reason)


def cannot_be_read(path: str, reason: str) -> WeightsError:
    """The error for a file that cannot be read, for a reason in words."""
    return WeightsError(
        f"{path} cannot be read as weights: {reason}. Delete it, and fetch or copy it again."
    )


def refusal(path: str, refused: str) -> WeightsError:
    """The error for a file that could only be read with code; ``refused`` says what it holds."""
    return WeightsError(
        f"{path} is refused: {refused}. Only numbers, text and plain containers are "
        "read, because reading other things can run code of the file's author. If you know the "
        "file, MODEL.LOADING.TRUST_FILE True reads it with that code; only do so if you trust "
        "where it comes from."
    )
