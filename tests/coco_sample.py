"""A COCO-format annotation file, small enough to break in every way."""

SQUARE = [1, 1, 9, 1, 9, 9, 1, 9]


def coco():
    """Two images of 12 x 10 pixels (width x height), two categories, two instances, one crowd."""

    def annotation(number, image, category, **more):
        box = {"bbox": [1, 1, 8, 8], "area": 64, "iscrowd": 0, "segmentation": [list(SQUARE)]}
        return {"id": number, "image_id": image, "category_id": category, **box, **more}

    crowd = {"size": [10, 12], "counts": [20, 50, 50]}
    return {
        "images": [
            {"id": 11, "file_name": "a.png", "height": 10, "width": 12},
            {"id": 12, "file_name": "b.png", "height": 10, "width": 12},
        ],
        "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
        "annotations": [
            annotation(101, 11, 3),
            annotation(102, 11, 7),
            annotation(103, 12, 7, iscrowd=1, segmentation=crowd),
        ],
    }
