"""Addresses of remote files that come from files of strangers."""

from __future__ import annotations


def url_problem(path: object) -> str | None:
    """Why a file is not to be fetched, in words that begin with its address; None for local files
    and usual addresses.

    What is fetched is kept in a cache, in folders that are named as in the address: with ``..`` it
    would be written to any other place.
    """
    text = str(path)
    if "://" not in text or ".." not in text.replace("\\", "/").split("/"):
        return None
    return (
        f"{text[:200]!r} is not fetched: with '..' in its address it would be kept outside the "
        "cache of fetched files. Write the address without."
    )
