"""The images of a registered data set, whatever its annotations are like."""

from collections import Counter
from typing import Any

from ..errors import DataError
from .checks import check_image_files, load_registered


def load_images(name: str, *, files_needed: bool = False) -> list[dict[str, Any]]:
    """The dicts of a data set for what needs no annotations; these are not looked at.

    Args:
        name: in Detectron2's ``DatasetCatalog``.
        files_needed: see that the image files are there.

    Raises:
        DataError: the data set is not registered or cannot be loaded, files are missing, or ids of
            images are missing or not unique.
    """
    records = load_registered(name)
    if files_needed:
        check_image_files(name, records)
    for number, record in enumerate(records):
        if type(record.get("image_id")) not in (int, str):
            raise DataError(
                f"data set '{name}': image {number} ({record.get('file_name')}) has the image_id "
                f"{record.get('image_id')!r}; proposals are found by it, so it must be a number or "
                "text"
            )
    repeated = [i for i, count in Counter(str(r["image_id"]) for r in records).items() if count > 1]
    if repeated:
        raise DataError(
            f"data set '{name}': {len(repeated)} image ids are not unique, for example "
            f"{repeated[0]}; proposals are found by them. Give each image its own."
        )
    return records
