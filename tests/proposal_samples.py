"""Proposals to write and read."""

import numpy as np

from instseg_d2.data.image_proposals import ImageProposals
from instseg_d2.data.proposal_files import proposal_writer
from instseg_d2.data.proposal_random import random_proposals

HEIGHT, WIDTH = 30, 40


def sample(image_id, count=5, *, masks=False, size=(HEIGHT, WIDTH), seed=0):
    """Random proposals of an image; other ids have others."""
    rng = np.random.default_rng([seed, *str(image_id).encode()])
    return random_proposals(image_id, size, count, rng, with_masks=masks)


def empty(image_id):
    """An image without proposals."""
    return ImageProposals(image_id, np.zeros((0, 4), np.float32), np.zeros(0, np.float32))


def write(path, images):
    """Write a file of the format that the suffix names; its path as text."""
    with proposal_writer(path) as writer:
        for proposals in images:
            writer.add(proposals)
    return str(path)


def records(*ids, size=(HEIGHT, WIDTH)):
    """Data set dicts of these images."""
    height, width = size
    return [{"image_id": i, "file_name": f"{i}.png", "height": height, "width": width} for i in ids]


def assert_same(first, second, *, score_tolerance=0.0):
    """Two lists of images are equal, in their order."""
    first, second = list(first), list(second)
    assert [p.image_id for p in first] == [p.image_id for p in second]
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.boxes, other.boxes)
        np.testing.assert_allclose(one.logits, other.logits, rtol=0, atol=score_tolerance)
        assert one.rles == other.rles
